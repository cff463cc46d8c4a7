"""Duels: pairs by chance, and shares with their intervals."""

import math
from collections import Counter
from pathlib import Path

import pytest
from app_cases import settings_in

from app.services import open_services
from app.services.errors import ServiceError
from app.services.stored import Storage
from app.services.texts.duels import MAX_VOTES, Contender, DuelService, standings_of
from storage.votes import DuelCount


@pytest.fixture
def duels(tmp_path: Path) -> DuelService:
    return DuelService(Storage.open(settings_in(tmp_path)))


def wilson(won: int, n: int) -> tuple[float, float]:
    """The interval at 95 %, written down again (Wilson 1927)."""
    z = 1.959963984540054
    centre, width = (won / n + z**2 / (2 * n)), z * math.sqrt(won / n * (1 - won / n) / n + z**2 / (4 * n**2))
    return (centre - width) / (1 + z**2 / n), (centre + width) / (1 + z**2 / n)


def test_shares_and_intervals() -> None:
    rows = standings_of(
        [DuelCount("a", "b", "left", 6), DuelCount("b", "a", "left", 2), DuelCount("a", "c", "equal", 3)]
    ).set_index("contender")
    assert rows.loc["a", ["duels", "won", "lost", "equal"]].tolist() == [11, 6, 2, 3]
    assert rows.loc["b", ["duels", "won", "lost", "equal"]].tolist() == [8, 2, 6, 0]
    assert rows.loc["a", "share"] == 0.75 and list(rows.index) == ["a", "b", "c"]
    assert (rows.loc["a", "low"], rows.loc["a", "high"]) == pytest.approx(wilson(6, 8))
    assert (rows.loc["b", "low"], rows.loc["b", "high"]) == pytest.approx(wilson(2, 8))
    assert rows.loc["c", ["share", "low", "high"]].isna().all()  # no duel of it had a winner


def test_no_votes_are_an_empty_table() -> None:
    assert standings_of([]).empty


def test_sides_and_pairs_are_drawn_by_chance(duels: DuelService) -> None:
    contenders = [Contender(name, name) for name in "abc"]
    drawn = Counter(tuple(one.name for one in duels.draw(contenders)) for _ in range(600))
    assert len(drawn) == 6 and min(drawn.values()) > 50


def test_contenders_with_one_name_do_not_meet(duels: DuelService) -> None:
    same = [Contender("r-1", "W4A4 abq"), Contender("r-2", "W4A4 abq")]
    with pytest.raises(ServiceError, match="two different contenders"):
        duels.draw(same)
    for _ in range(20):
        left, right = duels.draw([*same, Contender("full", "Full precision")])
        assert left.name != right.name


def test_votes_of_all_visitors_count_and_each_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.texts.duels.MAX_VOTES", 4)
    duels = open_services(settings_in(tmp_path)).duels
    for _ in range(10):
        duels.vote("ada", "builtin", "a", "b", "left")
    duels.vote("bob", "builtin", "b", "a", "left")
    rows = duels.standings("builtin").set_index("contender")
    assert rows.loc["a", ["won", "lost"]].tolist() == [4, 1] and MAX_VOTES == 1000
