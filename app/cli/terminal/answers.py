"""Output of commands: answers on stdout, and one line on stderr for an error."""

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

from app.cli.terminal.streams import discard_unwritten_output
from app.formatting import printable
from app.json_values import to_json_text
from app.settings import Settings, SettingsError

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
PACKAGES = ("app", "abq_core", "kernels", "storage")
MAX_ERROR_CHARACTERS = 1500
TABLE_WIDTH = 160  # columns, when the output is not a terminal

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


class OutputFailedError(OSError):
    """The answer could not be written: stdout is closed, or its disk is full."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: header and cells as text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Output of a command.

    data: printed by --json.  text: printed otherwise; an iterable is printed piece by piece.
    """

    data: object
    text: str | Table | Iterable[str | Table]
    code: int = 0


def answers(command: Callable[..., Answer | None]) -> Callable[..., None]:
    """Turn a function that returns an Answer and raises named errors into a typer command."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        out, as_json = sys.stdout, bool(arguments.get("as_json"))
        try:
            with contextlib.redirect_stdout(sys.stderr):  # output of libraries is not part of the answer
                answer = command(**arguments)
                if answer is not None:
                    _print(answer, out, as_json)
        except KeyboardInterrupt as interrupt:
            print_error(str(interrupt) or "interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except typer.Exit:
            raise
        except typer.Abort:
            print_error("Cancelled.")
            raise typer.Exit(FAILURE) from None
        except Exception as error:
            raise typer.Exit(report_error(error)) from None
        if answer is not None and answer.code:
            raise typer.Exit(answer.code)

    return run


def confirm(question: str) -> None:
    """Ask on stderr, and raise typer.Abort unless the answer is yes."""
    typer.confirm(printable(question), abort=True, err=True)


def _print(answer: Answer, out: TextIO, as_json: bool) -> None:
    if as_json:
        _write(out, to_json_text(answer.data).replace("\x7f", "\\u007f"))  # JSON escapes other control characters
    elif isinstance(answer.text, str | Table):
        _print_piece(answer.text, out, end="\n")
    else:
        for piece in answer.text:
            _print_piece(piece, out, end="")


def _write(out: TextIO, text: str) -> None:
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        raise OutputFailedError(f"the answer cannot be written to stdout: {error.strerror or error}.") from error


def _print_piece(piece: str | Table, out: TextIO, end: str) -> None:
    if isinstance(piece, str):
        _write(out, printable(piece) + end)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(*piece.header, box=box.SIMPLE_HEAD)
    for row in piece.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: a cell is never read as markup
    try:
        Console(file=out, width=None if out.isatty() else TABLE_WIDTH, highlight=False).print(table)
        out.flush()
    except OSError as error:
        raise OutputFailedError(f"the answer cannot be written to stdout: {error.strerror or error}.") from error


def report_error(error: Exception) -> int:
    """Print one line about the error. Returns the exit code."""
    if isinstance(error, OutputFailedError):
        discard_unwritten_output()
        print_error(str(error))
        return USER_ERROR
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        print_error(f"the disk is full ({error.filename or 'file unknown'}). Free some space and try again.")
        return USER_ERROR
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        print_error(f"{error.filename or 'the system'}: {error.strerror or error}.")
        return USER_ERROR
    if type(error).__module__.split(".")[0] in PACKAGES:
        print_error(str(error))
        return USER_ERROR
    print_error(f"internal error, {type(error).__name__}: {' '.join(str(error).split())[:300]} {_log_traceback()}")
    return FAILURE


def _log_traceback() -> str:
    """Append the traceback to a log file. Returns a sentence that names the file."""
    try:
        log = Settings.from_environment().logs_dir / "errors.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc() + "\n")
    except (OSError, SettingsError):
        return "This is a bug."
    return f"This is a bug; {Path(log)} has the details."


def print_error(text: str) -> None:
    """Write one line to stderr; the middle of a very long text is left out."""
    line = printable(" ".join(text.split()))
    if len(line) > MAX_ERROR_CHARACTERS:
        line = f"{line[: MAX_ERROR_CHARACTERS // 2]} ... {line[-MAX_ERROR_CHARACTERS // 2 :]}"
    sys.stderr.write(f"abq: {line}\n")
