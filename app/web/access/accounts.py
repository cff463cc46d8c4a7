"""Who may log in: a file with a name and an scrypt hash in each line. A password is in no argument, file or log."""

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
import threading
from pathlib import Path

from app.files import OWNER_ONLY, NotRegularFileError, write_atomically

MIN_PASSWORD, MAX_PASSWORD = 12, 256  # characters
_COST, _BLOCK, _PARALLEL = 1 << 15, 8, 3  # 32 MiB and about a quarter of a second for each guess
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_STORED = re.compile(r"scrypt\$(\d{2,7})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/=]{16,64})\$([A-Za-z0-9+/=]{32,128})")


class AccountsError(ValueError):
    """A password file, a name or a password that cannot be used."""


class Accounts:
    """The accounts of one file. Read again when it changes, so that a removed account ends at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: tuple[int, ...] | None = None
        self._stored: dict[str, str] = {}
        self._lock = threading.Lock()
        self._nobody = hash_password(secrets.token_hex(16))  # what an unknown name is compared with

    def names(self) -> list[str]:
        """All names, sorted. Raises AccountsError where the file cannot be used."""
        return sorted(self._current())

    def stored(self, name: str) -> str | None:
        """The hash of an account, None where there is none: it changes with the password."""
        return self._current().get(name)

    def verify(self, name: str, password: str) -> bool:
        """True for the right password. Takes as long for a name that is not there."""
        stored = self._current().get(name)
        right = matches(password[:MAX_PASSWORD], stored or self._nobody)
        return right and stored is not None

    def set_password(self, name: str, password: str) -> None:
        """Add an account, or give it another password. Raises AccountsError."""
        if not _NAME.fullmatch(name):
            raise AccountsError(f"{name[:80]!r} is no name: use 1 to 64 letters, digits, dots, dashes or underscores.")
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise AccountsError(
                f"The password has {len(password)} characters: use {MIN_PASSWORD} to {MAX_PASSWORD}, several words "
                "for example."
            )
        accounts = self._current() if self.path.exists() else {}
        self._write({**accounts, name: hash_password(password)})

    def remove(self, name: str) -> None:
        """Delete an account. Raises AccountsError where there is none."""
        accounts = dict(self._current())
        if accounts.pop(name, None) is None:
            raise AccountsError(
                f"{self.path} has no account {name[:80]!r}. It has {', '.join(self.names()) or 'none'}."
            )
        self._write(accounts)

    def _current(self) -> dict[str, str]:
        with self._lock:
            try:
                found = self.path.stat()
                read_at = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)
                if read_at != self._read_at:
                    self._stored = _read(self.path, found.st_mode)
                    self._read_at = read_at
            except (OSError, UnicodeDecodeError) as error:
                raise AccountsError(
                    f"The password file {self.path} cannot be read ({error}). Make one with "
                    f"'abq auth set-password NAME --file {self.path}'."
                ) from error
            return self._stored

    def _write(self, accounts: dict[str, str]) -> None:
        """Replace the file, readable by its owner only."""
        content = "".join(f"{name}:{stored}\n" for name, stored in sorted(accounts.items()))
        try:
            write_atomically(self.path, content.encode(), mode=OWNER_ONLY)
        except NotRegularFileError as error:
            raise AccountsError(f"The password file cannot be written: {error}") from error
        except OSError as error:
            raise AccountsError(f"The password file {self.path} cannot be written ({error.strerror}).") from error


def hash_password(password: str) -> str:
    """scrypt with its parameters and a salt of its own, as text of one line."""
    salt = secrets.token_bytes(16)
    key = _scrypt(password, salt, _COST, _BLOCK, _PARALLEL)
    parts = (base64.b64encode(part).decode() for part in (salt, key))
    return "$".join(["scrypt", str(_COST), str(_BLOCK), str(_PARALLEL), *parts])


def matches(password: str, stored: str) -> bool:
    """Compare in constant time. Raises AccountsError where `stored` is no hash of ours."""
    found = _STORED.fullmatch(stored)
    if found is None:
        raise AccountsError("A stored password has another form. Set it again with 'abq auth set-password'.")
    cost, block, parallel = (int(found[group]) for group in (1, 2, 3))
    key = _scrypt(password, base64.b64decode(found[4]), cost, block, parallel)
    return hmac.compare_digest(key, base64.b64decode(found[5]))


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=cost, r=block, p=parallel, maxmem=256 << 20, dklen=32)


def _read(path: Path, mode: int) -> dict[str, str]:
    if not stat.S_ISREG(mode):
        raise AccountsError(f"The password file {path} is no plain file.")
    if os.name == "posix" and mode & 0o077:
        raise AccountsError(f"The password file {path} is open to others. Close it: chmod 600 {path}")
    accounts = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        name, colon, stored = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or not _STORED.fullmatch(stored):
            raise AccountsError(
                f"Line {number} of the password file {path} is no account. Write it with 'abq auth set-password'."
            )
        accounts[name] = stored
    return accounts
