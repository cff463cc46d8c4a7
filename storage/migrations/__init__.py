"""Revisions of the schema, applied by `Database.open`.

To change the schema: change storage/schema.py, and add versions/revision_NNNN.py with the next number, whose `upgrade`
makes the same change with `alembic.op` (`op.batch_alter_table` where SQLite cannot alter). Released revisions stay.
"""
