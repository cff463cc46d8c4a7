"""One column of a benchmark in a process of its own, so that its memory is measured alone."""

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any


class ColumnError(RuntimeError):
    """The process of a column ended early."""


class ColumnProcess:
    """The process of one column. `row` describes it and holds its `rounds`."""

    def __init__(self, label: str, serve: Callable[..., None], *arguments: object, start: str = "forkserver") -> None:
        """Start `serve(pipe, *arguments)` and wait for the row that it sends first. Raises ColumnError.

        start: "forkserver" imports the function's module once for all columns; with "spawn" a process shares nothing.
        """
        context = multiprocessing.get_context(start)
        if start == "forkserver":
            context.set_forkserver_preload([serve.__module__])
        self._pipe, other = context.Pipe()
        self._label = label
        self._process = context.Process(target=serve, args=(other, *arguments), daemon=True)
        self._process.start()
        other.close()
        self.row: dict[str, Any] = {**self._answer(), "rounds": []}
        print(f"{label} is loaded", file=sys.stderr, flush=True)

    def measure(self, request: object) -> None:
        """Have the process measure one round. Raises ColumnError."""
        with contextlib.suppress(ConnectionError):  # the process has ended: `_answer` says so
            self._pipe.send(request)
        self.row["rounds"].append(self._answer())

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _answer(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            why = "Its own message is above."
            if code is not None and code < 0:
                why = f"It was ended by {signal.Signals(-code).name}; SIGKILL means that the memory was not enough."
            raise ColumnError(f"The process of {self._label} ended with exit code {code}. {why}") from None
        return answer


def in_turn(started: Iterable[ColumnProcess], rounds: int, request: object) -> list[dict[str, Any]]:
    """Have all columns measure in turn, and return their rows.

    started: starts each process when it is asked for it, one after the other, because loading a model needs memory.
    """
    processes: list[ColumnProcess] = []
    try:
        for process in started:
            processes.append(process)
        for _ in range(rounds):
            for process in processes:
                process.measure(request)
        return [process.row for process in processes]
    finally:
        for process in processes:
            process.stop()


def serve_module(pipe: Connection, module: str, *arguments: object) -> None:
    """Call `serve(pipe, *arguments)` of a module that only the column's process imports."""
    import_module(module).serve(pipe, *arguments)


def answer_rounds(pipe: Connection, row: dict[str, Any], measure: Callable[[Any], dict[str, Any]]) -> None:
    """In the process: send the row, then an answer to each request, until the other side closes the pipe."""
    pipe.send(row)
    while True:
        try:
            request = pipe.recv()
        except (EOFError, ConnectionError):
            return
        pipe.send(measure(request))
