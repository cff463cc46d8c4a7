"""Atomic replacement of files: all lasting writes of `app` use `write_atomically`."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

ANYONE, OWNER_ONLY = 0o666, 0o600  # permissions of a new file, before the process's umask


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
    _sync_folder(path.parent)


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
            f"{path} is {_kind(found)}, not a regular file. Name a new file, or a regular file to replace."
        )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders, and its renames are durable without it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
