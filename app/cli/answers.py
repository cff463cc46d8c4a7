"""What a command answers and how: stdout holds the answer and nothing else, an error is one line on stderr."""

import contextlib
import dataclasses
import errno
import functools
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from app.json_values import to_json_text
from app.settings import Settings, SettingsError

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
PACKAGES = ("app", "abq_core", "kernels", "storage")
TABLE_WIDTH = 160  # where the output is no terminal

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows for a person: header and cells as text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """data: what --json prints.  text: what a person reads; pieces of an iterable are printed as they come."""

    data: object
    text: str | Table | Iterable[str | Table]
    code: int = 0


def answers(command: Callable[..., Answer | None]) -> Callable[..., None]:
    """Make a typer command of a function that returns an Answer and raises named errors."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        out, as_json = sys.stdout, bool(arguments.get("as_json"))
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what libraries have to say is not the answer
                answer = command(**arguments)
                if answer is not None:
                    _print(answer, out, as_json)
        except KeyboardInterrupt:
            _complain("interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except typer.Exit:
            raise
        except Exception as error:
            raise typer.Exit(_explain(error)) from None
        if answer is not None and answer.code:
            raise typer.Exit(answer.code)

    return run


def _print(answer: Answer, out: TextIO, as_json: bool) -> None:
    if as_json:
        out.write(to_json_text(answer.data))
    elif isinstance(answer.text, str | Table):
        _print_piece(answer.text, out, end="\n")
    else:
        for piece in answer.text:
            _print_piece(piece, out, end="")
    out.flush()


def _print_piece(piece: str | Table, out: TextIO, end: str) -> None:
    if isinstance(piece, str):
        out.write(piece + end)
        out.flush()
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(*piece.header, box=box.SIMPLE_HEAD)
    for row in piece.rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a cell is never read as markup
    Console(file=out, width=None if out.isatty() else TABLE_WIDTH, highlight=False).print(table)


def _explain(error: Exception) -> int:
    """One line on stderr. Returns the exit code."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _complain(f"the disk is full ({error.filename or 'no file named'}). Free some space and try again.")
        return USER_ERROR
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}.")
        return USER_ERROR
    if type(error).__module__.split(".")[0] in PACKAGES:
        _complain(" ".join(str(error).split()))
        return USER_ERROR
    _complain(f"internal error, {type(error).__name__}: {' '.join(str(error).split())[:300]} {_keep_traceback()}")
    return FAILURE


def _keep_traceback() -> str:
    """Put the traceback where it can be found, and say where."""
    try:
        log = Settings.from_environment().logs_dir / "errors.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc() + "\n")
    except (OSError, SettingsError):
        return "This is a bug."
    return f"This is a bug; {Path(log)} has the details."


def _complain(text: str) -> None:
    sys.stderr.write(f"abq: {text}\n")
