"""Texts that visitors paste or upload: bounded, and readable only by the account that added them.

They are in the data folder, in `uploads` and a folder for each account; without a login all visitors share one.
"""

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from abq_core.text.text_files import file_text, is_text_file
from app.files import OWNER_ONLY, write_atomically
from app.services import ServiceError

FOLDER = "uploads"  # in the data folder
MAX_TEXT_BYTES = 8 << 20
MAX_TEXTS, MAX_BYTES = 20, 64 << 20  # of one account
KEPT_DAYS = 30  # after the last use
_EVERYONE = "everyone"  # the folder's name without a login; those of accounts are hexadecimal digests
_NAME = re.compile(r"[\w.-]{1,60}", re.ASCII)
_STORED_NAME = re.compile(r"[0-9a-f]{10}-[\w.-]{1,60}", re.ASCII)


class VisitorTextError(ServiceError):
    """A text that cannot be added."""


class VisitorTexts:
    """The texts that the visitors of one page added.

    in_use: the paths that queued and running jobs read; they are not deleted.  clock: seconds since 1970.
    """

    def __init__(
        self, data_dir: Path, in_use: Callable[[], Collection[str]], clock: Callable[[], float] = time.time
    ) -> None:
        self.root = uploads_folder(data_dir)
        self._in_use, self._clock = in_use, clock
        self._lock = threading.Lock()

    def add(self, account: str | None, name: str, content: bytes) -> Path:
        """Store a text. Returns its path, which is the source of text that a calibration or an evaluation names.

        name: of the visitor's file, ending in .txt or .jsonl. Raises VisitorTextError, DataError.
        """
        if not _NAME.fullmatch(name) or not is_text_file(Path(name)):
            raise VisitorTextError(
                f"{name[:80]!r} cannot be the name of a text: use at most 60 letters, digits, dots, dashes or "
                "underscores, and end with .txt or .jsonl."
            )
        if not content.strip():
            raise VisitorTextError("The text is empty. Paste or choose one that has words.")
        if len(content) > MAX_TEXT_BYTES:
            raise VisitorTextError(f"The text has {len(content):,} bytes; the limit is {MAX_TEXT_BYTES:,}.")
        with self._lock:
            self._sweep()
            self._require_room(account, len(content))
            path = owner_folder(self.root, account) / f"{secrets.token_hex(5)}-{name}"
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, content, mode=OWNER_ONLY)
            try:
                file_text(path, "calibration")
            except ValueError:
                path.unlink()
                raise
        return path

    def of(self, account: str | None) -> list[tuple[str, str]]:
        """The texts of an account as (name, path), newest first."""
        with self._lock:
            self._sweep()
            found = sorted(_files(owner_folder(self.root, account)), key=lambda path: path.stat().st_mtime_ns)
        return [(path.name.partition("-")[2], str(path)) for path in reversed(found)]

    def remove(self, account: str | None, path: str) -> None:
        """Delete a text of an account. Raises VisitorTextError if it has no such text, or a job needs it."""
        if path not in dict(map(reversed, self.of(account))):
            raise VisitorTextError("This is not a text that you added. Choose one of your texts.")
        if path in self._in_use():
            raise VisitorTextError("A job that is queued or running reads this text. Cancel it, or wait for its end.")
        Path(path).unlink(missing_ok=True)

    def _require_room(self, account: str | None, new_bytes: int) -> None:
        sizes = [path.stat().st_size for path in _files(owner_folder(self.root, account))]
        if len(sizes) >= MAX_TEXTS or sum(sizes) + new_bytes > MAX_BYTES:
            raise VisitorTextError(
                f"You have {len(sizes)} texts of {sum(sizes):,} bytes; the limits are {MAX_TEXTS} texts and "
                f"{MAX_BYTES:,} bytes. Delete one that you no longer need."
            )

    def _sweep(self) -> None:
        """Delete texts that no job needs and that were last used more than KEPT_DAYS ago."""
        oldest = self._clock() - KEPT_DAYS * 86_400
        old = [path for folder in self.root.glob("*") for path in _files(folder) if path.stat().st_mtime < oldest]
        needed = self._in_use() if old else ()
        for path in old:
            if str(path) not in needed:
                path.unlink(missing_ok=True)


def uploads_folder(data_dir: Path) -> Path:
    """The folder of all texts that visitors added."""
    return data_dir.resolve() / FOLDER


def owner_folder(root: Path, account: str | None) -> Path:
    """The folder of one account's texts."""
    return root / (_EVERYONE if account is None else hashlib.sha256(account.encode()).hexdigest()[:32])


def mark_used(path: Path) -> None:
    """Keep a text for another KEPT_DAYS. Does nothing if it no longer exists."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if _STORED_NAME.fullmatch(path.name) and path.is_file()]
