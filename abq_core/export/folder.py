"""The target folder of an export: written under a temporary name next to it, then renamed."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abq_core.export.errors import ExportError
from abq_core.user_files import kind_of_file, make_durable, user_path


def export_target(text: str | Path) -> Path:
    """The absolute path of a new folder that a user named, checked before the work that fills it.

    Raises ExportError if it exists and is not an empty folder, if it is a link, or if its parent is missing.
    """
    path = user_path(text, ExportError).absolute()
    try:
        mode = _mode(path)
        if mode is not None and not stat.S_ISDIR(mode):
            raise ExportError(f"{path} is {kind_of_file(mode)}, not a folder. Name a new folder.")
        if mode is not None and any(path.iterdir()):
            raise ExportError(f"{path} already exists and is not empty. Name a new folder; exports replace nothing.")
        if not path.parent.is_dir():
            raise ExportError(f"The folder {path.parent} does not exist. Create it, or name a folder in another one.")
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{str(path)!r} cannot be written ({reason}). Name another folder.") from error
    return path


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder next to `target`, which becomes `target` when the context ends without an error.

    Otherwise nothing remains. Raises ExportError if the target was created meanwhile.
    """
    temporary = target.with_name(f".abq-export-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
    except OSError as error:
        raise ExportError(f"{target.parent} cannot be written ({error.strerror}). Name another folder.") from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            make_durable(file)
        make_durable(temporary)
        try:
            os.rename(temporary, export_target(target))
        except OSError as error:
            raise ExportError(f"{target} cannot be written ({error.strerror}). Name another folder.") from error
        make_durable(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _mode(path: Path) -> int | None:
    """What a path is, links not followed; None if it is free."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None
