"""abq db: backups of the database."""

from pathlib import Path
from typing import Annotated

import typer

from app import formatting
from app.cli.options import ForceOption
from app.cli.terminal.answers import Answer, JsonOption, answers
from app.settings import Settings
from kernels.environment import check_environment

database = typer.Typer(no_args_is_help=True, help="The database: backup.")


@database.callback()
def group() -> None:
    """The group of database commands.

    Without a callback, typer would replace a group of one command by that command.
    """


@database.command()
@answers
def backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A new file.")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> Answer:
    """Copy the database into one file, even while jobs run.

    To restore, copy it back (docs/operations.md).

    Example: abq db backup abq-2026-01-31.sqlite3
    """
    from app.files import output_path
    from storage.database import Database

    check_environment()
    settings = Settings.from_environment()
    settings.prepare()
    target = output_path(path, force)
    with Database.open(settings.database_url) as opened:
        opened.backup(target, replace=force)
    size = target.stat().st_size
    return Answer({"path": str(target), "bytes": size}, f"{target} ({formatting.size(size)})")
