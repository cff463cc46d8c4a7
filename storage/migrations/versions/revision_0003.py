"""Record the votes of duels."""

import sqlalchemy as sa
from alembic import op

from storage.columns import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table of votes."""
    op.create_table(
        "votes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("visitor", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("shown_left", sa.Text(), nullable=False),
        sa.Column("shown_right", sa.Text(), nullable=False),
        sa.Column("winner", sa.String(8), nullable=False),
        sa.CheckConstraint("winner IN ('left', 'right', 'equal')", name=op.f("ck_votes_winner")),
        sa.CheckConstraint("shown_left <> shown_right", name=op.f("ck_votes_pair")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_votes")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_votes_visitor_id"), "votes", ["visitor", "id"])
    op.create_index(op.f("ix_votes_model"), "votes", ["model"])
