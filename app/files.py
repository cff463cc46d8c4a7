"""Durable files: all are written by `write_atomically`, those that a user names by `write_output`."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from abq_core.user_files import kind_of_file, make_durable, user_path

ANYONE, OWNER_ONLY = 0o666, 0o600  # permissions of a new file, before the process's umask


class OutputError(ValueError):
    """The path of an output cannot be used: its file or folder is not as required."""


class NotRegularFileError(ValueError):
    """The path to write is not a regular file. Nothing was written.

    It names a directory, a device, a FIFO, a socket or a link.
    """


def write_atomically(
    path: Path,
    data: bytes,
    before_replace: Callable[[], None] | None = None,
    *,
    mode: int = ANYONE,
    make_parents: bool = True,
) -> None:
    """Replace or create a file so that a crash leaves either the old content or the new.

    The bytes go to a temporary file in the same folder, then fsync, rename, fsync of the folder.
    before_replace: called between fsync and rename; it may raise to keep the old file.
    mode: permissions, such as OWNER_ONLY.  make_parents: create missing parent folders.
    Raises NotRegularFileError (see `require_replaceable`), OSError.
    """
    require_replaceable(path)
    if make_parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if before_replace is not None:
            before_replace()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    make_durable(path.parent)


def require_replaceable(path: Path) -> None:
    """Check that the path is free or names a regular file. Raises NotRegularFileError.

    Links are refused, not followed: the rename would replace the link and leave its target unchanged.
    """
    try:
        found = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(found):
        raise NotRegularFileError(
            f"{path} is {kind_of_file(found)}, not a regular file. Name a new file, or a regular file to replace."
        )


def output_path(text: str | Path, force: bool) -> Path:
    """The absolute path of an output that a user named, checked before the work that makes its content.

    force: replace a regular file. Devices, FIFOs, sockets, folders and links are never replaced, and missing folders
    are not created. Raises OutputError, NotRegularFileError.
    """
    path = user_path(text, OutputError).absolute()
    try:
        require_replaceable(path)
        if not path.parent.is_dir():
            raise OutputError(f"The folder {path.parent} does not exist. Create it, or name a file in another folder.")
        if path.exists() and not force:
            raise OutputError(f"{path} already exists. Name another file, or replace it with --force.")
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{str(path)!r} cannot be written ({reason}). Name another file.") from error
    return path


def write_output(path: Path, data: bytes, force: bool) -> None:
    """Write an output at a path of `output_path`. Raises OutputError, NotRegularFileError, OSError."""

    def still_free() -> None:
        output_path(path, force)

    write_atomically(path, data, still_free, make_parents=False)
