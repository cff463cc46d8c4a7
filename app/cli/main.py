"""`abq`, the command line.

Answers go to stdout, everything else to stderr. Exit code 2 means an invalid request.

Commands import heavy packages inside their functions, so that `abq --help` is instant.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from app.cli.allocate import allocate
from app.cli.auth import auth
from app.cli.bench import bench
from app.cli.calibrate import calibrate, import_model
from app.cli.database import database
from app.cli.export import export
from app.cli.jobs import jobs
from app.cli.kv import kv
from app.cli.measure import evaluate, generate
from app.cli.quickstart import quickstart
from app.cli.runs import report, runs
from app.cli.serve import serve, work
from app.cli.sweep import sweep
from app.cli.terminal.answers import INTERRUPTED, print_error, report_error
from app.cli.terminal.streams import discard_unwritten_output, require_usable_streams
from app.cli.texts import texts
from app.cli.warmup import warmup
from kernels.host.threads import THREADS_WAIT

app = typer.Typer(
    name="abq",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="ABQ Explorer: the effect of W2A8, W4A4 or any WpAq on a language model's quality, size and speed.",
    epilog="Start with: abq quickstart. Settings: ABQ_DATA_DIR, ABQ_DATABASE_URL, ABQ_THREADS, ABQ_DEVICE, "
    "ABQ_NICENESS.",
)
app.command("app")(serve)
app.command()(calibrate)
app.command("import")(import_model)
app.command()(sweep)
app.command()(texts)
app.command()(allocate)
app.add_typer(jobs, name="jobs")
app.command("eval")(evaluate)
app.command()(generate)
app.command()(kv)
app.add_typer(bench, name="bench")
app.command()(warmup)
app.add_typer(runs, name="runs")
app.command()(export)
app.command()(report)
app.command()(quickstart)
app.add_typer(database, name="db")
app.command("worker")(work)
app.add_typer(auth, name="auth")


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=lambda value: _version(value))] = False,
) -> None:
    """Options before the command."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line. Returns the exit code."""
    for name, value in THREADS_WAIT.items():
        os.environ.setdefault(name, value)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        require_usable_streams()
        _require_text(arguments)
        code = typer.main.get_command(app).main(arguments, prog_name="abq", standalone_mode=False)
    except TyperException as error:
        message = error.format_message()
        if message:
            print_error(f"{message} See abq --help.")
        return error.exit_code
    except (OSError, ArgumentError) as error:  # of help and --version: those of commands are reported already
        discard_unwritten_output()
        return report_error(error)
    except (typer.Abort, KeyboardInterrupt):
        print_error("interrupted.")
        return INTERRUPTED
    return int(code or 0)


class ArgumentError(ValueError):
    """An argument that is not text."""


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse arguments whose bytes are not UTF-8: they cannot be stored or shown. Raises ArgumentError."""
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise ArgumentError(
                f"argument {number}, {argument[:80]!r}, is not UTF-8 text. Rename the file, or check the text."
            ) from None


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"abq-explorer {version('abq-explorer')}")
        raise typer.Exit
