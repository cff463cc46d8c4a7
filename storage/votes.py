"""Votes of the duels on the page: which of two generated texts a visitor preferred."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import delete, func, select

from storage.database import Database
from storage.schema import VoteRow

Winner = Literal["left", "right", "equal"]


class DuelCount(NamedTuple):
    """How often a pair had this result. left, right: the contenders as they were shown."""

    left: str
    right: str
    winner: Winner
    votes: int


class Votes:
    """The operations on votes. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, visitor: str, model: str, pair: tuple[str, str], winner: Winner, now: datetime, most: int) -> None:
        """Record a vote. pair: the contenders on the left and on the right.

        most: votes that a visitor has at most; the oldest ones beyond them are deleted.
        """
        left, right = pair
        with self._database.transaction() as session:
            session.add(
                VoteRow(created_at=now, visitor=visitor, model=model, shown_left=left, shown_right=right, winner=winner)
            )
            session.flush()
            kept = select(VoteRow.id).where(VoteRow.visitor == visitor).order_by(VoteRow.id.desc()).limit(most)
            oldest = session.scalars(kept).all()[-1]
            session.execute(delete(VoteRow).where(VoteRow.visitor == visitor, VoteRow.id < oldest))

    def counts(self, model: str) -> Sequence[DuelCount]:
        """The results of all duels of a model, by pair."""
        columns = (VoteRow.shown_left, VoteRow.shown_right, VoteRow.winner)
        query = select(*columns, func.count()).where(VoteRow.model == model).group_by(*columns).order_by(*columns)
        with self._database.reading() as session:
            return [DuelCount(left, right, winner, votes) for left, right, winner, votes in session.execute(query)]
