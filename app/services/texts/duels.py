"""Duels: pairs of models whose texts a visitor compares without their names, and the votes on them."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas

from app.clock import now
from app.services.errors import ServiceError
from app.services.stored import Storage
from app.services.versioned_cache import VersionedCache
from storage.votes import DuelCount, Votes, Winner

MAX_VOTES = 1000  # of one visitor; older ones are deleted
CONFIDENCE = 0.95
COLUMNS = ["contender", "duels", "won", "lost", "equal", "share", "low", "high"]
_MAX_NAME = 120  # characters of a contender's name


@dataclass(frozen=True)
class Contender:
    """One side of a duel. column: as on Generate.  name: what the visitor learns after the vote."""

    column: str
    name: str


class DuelService:
    """Draws pairs and counts votes.

    Reads are cached: writes of other processes show after STALE_SECONDS.
    """

    def __init__(self, storage: Storage) -> None:
        self._votes = Votes(storage.database)
        self._random = random.SystemRandom()
        self._standings = VersionedCache(self._read_standings, storage.version)

    def draw(self, contenders: Sequence[Contender]) -> tuple[Contender, Contender]:
        """Two of the contenders, left and right by chance. Raises ServiceError for fewer than two names."""
        if len({one.name for one in contenders}) < 2:
            raise ServiceError("A duel needs two different contenders: select at least two.")
        left, right = self._random.sample(list(contenders), 2)
        return (left, right) if left.name != right.name else self.draw(contenders)

    def seed(self, most: int) -> int:
        """A random seed, 0 to `most`: the same contenders and prompt give another duel next time."""
        return self._random.randint(0, most)

    def vote(self, visitor: str, model: str, left: str, right: str, winner: Winner) -> None:
        """Store a vote. left, right: names of the contenders.  visitor: account or address."""
        self._votes.add(visitor, model, (left[:_MAX_NAME], right[:_MAX_NAME]), winner, now(), MAX_VOTES)

    def standings(self, model: str) -> pandas.DataFrame:
        """One row per contender of the model's duels, the best first.

        share: of its decided duels that it won, 0 to 1.  low, high: Wilson interval of the share at CONFIDENCE.
        Both are NaN without a decided duel. Cached.
        """
        return self._standings.read(model).copy()

    def _read_standings(self, model: str) -> pandas.DataFrame:
        return standings_of(self._votes.counts(model))


def standings_of(counts: Sequence[DuelCount]) -> pandas.DataFrame:
    """The rows of `DuelService.standings` from the results of pairs."""
    from scipy.stats import binomtest

    won: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    for count in counts:
        if count.winner == "equal":
            equal.update({count.left: count.votes, count.right: count.votes})
        else:
            ahead, behind = (count.left, count.right)[:: 1 if count.winner == "left" else -1]
            won[ahead] += count.votes
            lost[behind] += count.votes
    rows = []
    for name in {*won, *lost, *equal}:
        decided = won[name] + lost[name]
        row = {"contender": name, "duels": decided + equal[name], "won": won[name], "lost": lost[name]}
        row |= {"equal": equal[name]}
        if decided:
            interval = binomtest(won[name], decided).proportion_ci(CONFIDENCE, method="wilson")
            row |= {"share": won[name] / decided, "low": float(interval.low), "high": float(interval.high)}
        rows.append(row)
    frame = pandas.DataFrame(rows, columns=COLUMNS)
    return frame.sort_values(["share", "duels", "contender"], ascending=[False, False, True], ignore_index=True)
