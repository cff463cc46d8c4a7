"""Schema revisions, applied by `Database.open`.

To change the schema, edit storage/schema.py and add versions/revision_NNNN.py with the next number. Its `upgrade` makes
the same change with `alembic.op` (`op.batch_alter_table` if SQLite cannot alter). Never edit a released revision.
"""
