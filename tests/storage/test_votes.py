"""Votes of duels: stored, counted by pair, and bounded for each visitor."""

import pytest
from storage_cases import Clock

from storage.database import Database
from storage.errors import DatabaseError
from storage.votes import DuelCount, Votes


def test_votes_are_counted_by_pair(database: Database, clock: Clock) -> None:
    votes = Votes(database)
    for winner in ("left", "left", "equal"):
        votes.add("ada", "builtin", ("W4A4 abq", "W2A8 rtn"), winner, clock.move(1), 10)  # type: ignore[arg-type]
    votes.add("bob", "builtin", ("W2A8 rtn", "W4A4 abq"), "right", clock.move(1), 10)
    votes.add("bob", "other", ("Full precision", "W4A4 abq"), "right", clock.move(1), 10)
    assert list(votes.counts("builtin")) == [
        DuelCount("W2A8 rtn", "W4A4 abq", "right", 1),
        DuelCount("W4A4 abq", "W2A8 rtn", "equal", 1),
        DuelCount("W4A4 abq", "W2A8 rtn", "left", 2),
    ]
    assert list(votes.counts("unknown")) == []


def test_only_the_newest_votes_of_a_visitor_are_kept(database: Database, clock: Clock) -> None:
    votes = Votes(database)
    votes.add("bob", "builtin", ("a", "b"), "equal", clock.now, 3)
    for winner in ("left", "left", "right", "right", "right"):
        votes.add("ada", "builtin", ("a", "b"), winner, clock.move(1), 3)  # type: ignore[arg-type]
    assert {(one.winner, one.votes) for one in votes.counts("builtin")} == {("right", 3), ("equal", 1)}


@pytest.mark.parametrize(("pair", "winner"), [(("a", "b"), "both"), (("a", "a"), "left")])
def test_an_impossible_vote_is_refused(database: Database, clock: Clock, pair: tuple[str, str], winner: str) -> None:
    votes = Votes(database)
    with pytest.raises(DatabaseError, match="contradict"):
        votes.add("ada", "builtin", pair, winner, clock.now, 3)  # type: ignore[arg-type]
    assert list(votes.counts("builtin")) == []
