"""A cluster inside this process whose nodes die when a test says so.

The whole executor without Ray.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from app.jobs.executors.cluster import Resources
from app.jobs.executors.node import Assignment, BlockKey, Delivery, Ended, NodeCalibrator
from app.jobs.executors.remote import RemoteLostError

DiesAt = Callable[[Delivery | Ended], bool]


@dataclass
class FakeCluster:
    """A Cluster whose nodes are threads.

    rooms: calibrations at once.  dies_at: per calibration ("W4A4 abq"), one predicate per start; the node dies before
    the first item that matches.  silent: nodes send nothing.  changes: fields of the assignment that nodes see changed.
    """

    rooms: int = 1
    dies_at: dict[str, list[DiesAt]] = field(default_factory=dict)
    silent: bool = False
    changes: dict[str, object] = field(default_factory=dict)
    cpus: int = 1
    sent: list[dict[BlockKey, bytes]] = field(default_factory=list)
    specs: list[str] = field(default_factory=list)
    alive: set[int] = field(default_factory=set)
    most_alive: int = 0
    began: threading.Event = field(default_factory=threading.Event)

    def capacity(self, need: Resources) -> int:
        return self.rooms

    def start(self, need: Resources, assignment: Assignment, stored: Iterable[tuple[BlockKey, bytes]]) -> "FakeRemote":
        self.sent.append(dict(stored))
        self.specs.append(f"{assignment.spec.precision} {assignment.spec.method}")
        deaths = self.dies_at.get(self.specs[-1])
        remote = FakeRemote(self, deaths.pop(0) if deaths else lambda item: False)
        self.alive.add(id(remote))
        self.most_alive = max(self.most_alive, len(self.alive))
        if not self.silent:
            remote.node.begin(replace(assignment, stored=self.sent[-1], **self.changes))  # type: ignore[arg-type]
        self.began.set()
        return remote


class FakeRemote:
    """A node as a thread. Items that it sent before it died have arrived."""

    def __init__(self, cluster: FakeCluster, dies_at: DiesAt) -> None:
        self.node = NodeCalibrator()
        self._cluster = cluster
        self._dies_at = dies_at
        self._ended = cluster.silent
        self._dead = False

    def next(self) -> list[Delivery | Ended]:
        if self._dead:
            raise RemoteLostError("Its node is gone.")
        items = self._take(0.05)
        for index, item in enumerate(items):
            if self._dies_at(item):
                self._dead = True
                return items[:index]
        return items

    def stop(self) -> None:
        self._cluster.alive.discard(id(self))
        while not self._ended:  # a thread cannot be killed, so it runs to its end
            self._take(0.05)

    def _take(self, seconds: float) -> list[Delivery | Ended]:
        items = self.node.next(seconds)
        self._ended = self._ended or any(isinstance(item, Ended) for item in items)
        return items
