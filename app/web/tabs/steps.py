"""Long work of a callback as a generator: it runs in a thread of its own and what it reports comes out as it comes."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Step = TypeVar("Step")


class Abandoned(RuntimeError):
    """Nobody follows the work any more; raised out of its next report, so that it ends."""


class Steps(Generic[Step]):
    """Iterate to follow `work(report)`; an error of the work is raised at the end of the iteration.

    Where the iteration is left before its end (a Stop button), the work is stopped at its next report.
    """

    def __init__(self, work: Callable[[Callable[[Step], None]], object]) -> None:
        self._work = work
        self._reported: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._abandoned = threading.Event()

    def __iter__(self) -> Iterator[Step]:
        thread = threading.Thread(target=self._run, name="steps", daemon=True)
        thread.start()
        try:
            while (step := self._reported.get()) is not None:
                yield step
        finally:
            self._abandoned.set()
        thread.join()
        if self._error is not None:
            raise self._error

    def _report(self, step: Step) -> None:
        if self._abandoned.is_set():
            raise Abandoned("What waited for this work has gone.")
        self._reported.put(step)

    def _run(self) -> None:
        try:
            self._work(self._report)
        except BaseException as error:  # it belongs to whoever iterates
            self._error = error
        finally:
            self._reported.put(None)
