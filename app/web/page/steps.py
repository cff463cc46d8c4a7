"""Run long work in a thread and iterate over its progress."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Step = TypeVar("Step")


class Abandoned(RuntimeError):
    """The iteration ended early. Raised from the work's next report, so that the thread stops."""


class Steps(Generic[Step]):
    """Iterate over the steps that `work(report)` reports.

    An error of the work is raised when the iteration ends.
    If the iteration is left early (Stop button), the work stops at its next report.
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
            raise Abandoned("The work was stopped.")
        self._reported.put(step)

    def _run(self) -> None:
        try:
            self._work(self._report)
        except BaseException as error:  # raised again in the iterating thread
            self._error = error
        finally:
            self._reported.put(None)
