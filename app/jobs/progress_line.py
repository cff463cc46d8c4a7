"""Progress of one command on stderr.

A moving bar on a terminal, a plain line every few seconds otherwise.
"""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from app import formatting

LINE_SECONDS = 5.0  # between plain lines
BAR_WIDTH = 20


class ProgressLine:
    """A context manager that shows progress on stderr. Call `show` whenever something changed."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._moves = sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_line = ""
        self._last_time = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the moving bar, and show the cursor again; plain lines stay."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, label: str, fraction: float, message: str, eta_seconds: float | None) -> None:
        """Show the fraction done, the estimated time left and the current step.

        fraction: 0..1.  eta_seconds: None if unknown.
        """
        label, message = formatting.printable(label), formatting.printable(message)
        left = "" if eta_seconds is None else f", {formatting.seconds(eta_seconds)} left"
        if self._moves:
            self._move(label, fraction, f"{100 * fraction:5.1f} %{left}", message)
        else:
            self._print(f"{label}  {100 * fraction:5.1f} %{left}  {message}")

    def _move(self, label: str, fraction: float, done: str, message: str) -> None:
        if self._bar is None:
            self._bar = _make_bar(self._console)
            self._task = self._bar.add_task(label, total=1.0, done=done, message=message)
            self._bar.start()
        self._bar.update(self._task, completed=fraction, description=label, done=done, message=message)

    def _print(self, line: str) -> None:
        if line == self._last_line or time.monotonic() - self._last_time < LINE_SECONDS:
            return
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._last_line, self._last_time = line, time.monotonic()


def _make_bar(console: Console) -> Progress:
    """A bar with label, percentage, time left and a message cut to the terminal width."""

    def text(field: str, ratio: int | None = None) -> TextColumn:
        return TextColumn(field, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=ratio))

    return Progress(
        text("{task.description}"),
        BarColumn(BAR_WIDTH),
        text("{task.fields[done]}"),
        text("{task.fields[message]}", ratio=1),
        console=console,
        transient=True,
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
