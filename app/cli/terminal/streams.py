"""The standard streams of the command line: open, and able to encode every text."""

import errno
import io
import os
import sys


def require_usable_streams() -> None:
    """Open missing standard streams and let stdout and stderr escape what their encoding lacks.

    A closed stream's number would be given to the next file that is opened, such as the database, and output would go
    into it. Raises OSError if stdout is closed.
    """
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
        raise OSError(errno.EBADF, "stdout is closed, so there is no place for the answer", "stdout")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_unwritten_output() -> None:
    """Send what stdout could not write to the null device, so that the interpreter does not fail on it at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a file: a test's buffer
        return


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
