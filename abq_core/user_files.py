"""Paths and files that a user names. Only regular files are read, and never more than a limit."""

import os
import stat
from pathlib import Path


class UserFileError(ValueError):
    """A path that cannot be read or written as asked; the message names the path and what to do."""


def user_path(text: str | Path, error: type[Exception] = UserFileError) -> Path:
    """The path that `text` names, with a leading `~` replaced. Raises `error` if there is no such user."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise error(f"{str(text)!r} names the home folder of a user that does not exist. Use a full path.") from None
    if "\0" in str(path):
        raise error(f"{str(text)[:80]!r} contains a zero byte, which no path can. Check the path.")
    return path


def read_user_file(path: Path, limit: int, error: type[Exception] = UserFileError) -> bytes:
    """The bytes of a regular file; links are followed. Devices, FIFOs and sockets are refused without opening them.

    limit: most bytes to read; a larger file is refused, also one that grows or reports another size.
    Raises `error` with the path, the reason and what to do.
    """
    require_readable(path, limit, error)
    try:
        # Without O_NONBLOCK a FIFO that took the file's place since would be waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            _require_regular(path, os.fstat(descriptor), limit, error)
            data = file.read(limit + 1)
    except OSError as failure:
        raise error(f"'{path}' cannot be read ({failure.strerror}). Check the path and its permissions.") from failure
    if len(data) > limit:
        raise error(f"'{path}' has more than {limit:,} bytes. Use a part of it.")
    return data


def require_readable(path: Path, limit: int, error: type[Exception] = UserFileError) -> None:
    """Check that this is a regular file of at most `limit` bytes, without opening it. Raises `error`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise error(f"The file '{path}' does not exist. Check the path.") from None
    except OSError as failure:
        raise error(f"'{path}' cannot be read ({failure.strerror}). Check the path and its permissions.") from failure
    except UnicodeEncodeError as failure:
        raise error(f"{str(path)!r} cannot be a path on this machine. Check its characters.") from failure
    _require_regular(path, found, limit, error)


def read_user_text(path: Path, limit: int, error: type[Exception] = UserFileError) -> str:
    """The text of a UTF-8 file; otherwise as `read_user_file`."""
    data = read_user_file(path, limit, error)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise error(
            f"'{path}' is not UTF-8 text: byte {failure.start:,} cannot be read. Convert it first."
        ) from failure


def make_durable(path: Path) -> None:
    """Write a file or the entries of a folder to the disk. Raises OSError."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders, and its renames are durable without it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kind_of_file(mode: int) -> str:
    """What a file's mode says that it is, such as "a FIFO"."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _require_regular(path: Path, found: os.stat_result, limit: int, error: type[Exception]) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise error(f"'{path}' is {kind_of_file(found.st_mode)}, not a regular file. Name a regular file.")
    if found.st_size > limit:
        raise error(f"'{path}' has {found.st_size:,} bytes; the limit is {limit:,}. Use a part of it.")
