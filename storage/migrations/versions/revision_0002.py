"""Record the account that queued each run."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the account, which is unknown for runs of earlier versions."""
    op.add_column("runs", sa.Column("account", sa.Text(), nullable=True))
