"""Accounts: a file with one name and scrypt hash per line.

Passwords never appear in an argument, a file or a log.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
import threading
from pathlib import Path

from abq_core.user_files import UserFileError, read_user_text
from app.files import OWNER_ONLY, NotRegularFileError, write_atomically

MIN_PASSWORD, MAX_PASSWORD = 12, 256  # characters
_MAX_FILE_BYTES = 1 << 20
_COST, _BLOCK, _PARALLEL = 1 << 15, 8, 3  # OWASP's parameters of scrypt: 32 MiB and about 0.25 s per hash
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"scrypt\$(\d{2,7})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/=]{16,64})\$([A-Za-z0-9+/=]{32,128})")


class AccountsError(ValueError):
    """The password file, a name or a password cannot be used."""


class Accounts:
    """The accounts of one file.

    The file is read again when it changes, so that a removed account ends at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version: tuple[int, ...] | None = None
        self._hashes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._dummy_hash = hash_password(secrets.token_hex(16))

    def names(self) -> list[str]:
        """All names, sorted. Raises AccountsError if the file cannot be used."""
        return sorted(self._read())

    def password_hash(self, name: str) -> str | None:
        """The account's password hash; None if there is no such account.

        It changes with every new password.
        """
        return self._read().get(name)

    def verify(self, name: str, password: str) -> bool:
        """True for the right password.

        Unknown names take equally long, so that timing reveals no names.
        """
        stored = self._read().get(name)
        right = matches(password[:MAX_PASSWORD], stored or self._dummy_hash)
        return right and stored is not None

    def set_password(self, name: str, password: str) -> None:
        """Add an account, or change its password. Raises AccountsError."""
        if not _NAME.fullmatch(name):
            raise AccountsError(
                f"{name[:80]!r} is not a valid name. Use 1 to 64 letters, digits, dots, dashes or underscores."
            )
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise AccountsError(
                f"The password has {len(password)} characters. Use {MIN_PASSWORD} to {MAX_PASSWORD}, for example "
                "several words."
            )
        hashes = self._read() if self.path.exists() else {}
        self._write({**hashes, name: hash_password(password)})

    def remove(self, name: str) -> None:
        """Delete an account. Raises AccountsError if it does not exist."""
        hashes = dict(self._read())
        if hashes.pop(name, None) is None:
            raise AccountsError(
                f"{self.path} has no account {name[:80]!r}. Its accounts: {', '.join(self.names()) or 'none'}."
            )
        self._write(hashes)

    def _read(self) -> dict[str, str]:
        """Hashes by name, from memory unless the file has changed."""
        with self._lock:
            try:
                found = self.path.stat()
                version = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)
                if version != self._version:
                    self._hashes = _parse(self.path, found.st_mode)
                    self._version = version
            except (OSError, UserFileError) as error:
                raise AccountsError(
                    f"The password file {self.path} cannot be read ({error}). Create one with "
                    f"'abq auth set-password NAME --file {self.path}'."
                ) from error
            return self._hashes

    def _write(self, hashes: dict[str, str]) -> None:
        """Replace the file atomically. Only its owner can read it."""
        content = "".join(f"{name}:{stored}\n" for name, stored in sorted(hashes.items()))
        try:
            write_atomically(self.path, content.encode(), mode=OWNER_ONLY)
        except NotRegularFileError as error:
            raise AccountsError(f"The password file cannot be written: {error}") from error
        except OSError as error:
            raise AccountsError(f"The password file {self.path} cannot be written ({error.strerror}).") from error


def hash_password(password: str) -> str:
    """Hash a password with scrypt and a random salt.

    Returns "scrypt$N$r$p$salt$key", with salt and key in base64.
    """
    salt = secrets.token_bytes(16)
    key = _scrypt(password, salt, _COST, _BLOCK, _PARALLEL)
    parts = (base64.b64encode(part).decode() for part in (salt, key))
    return "$".join(["scrypt", str(_COST), str(_BLOCK), str(_PARALLEL), *parts])


def matches(password: str, password_hash: str) -> bool:
    """Check a password in constant time.

    Raises AccountsError if `password_hash` has another format.
    """
    found = _HASH.fullmatch(password_hash)
    if found is None:
        raise AccountsError("A stored password has an unknown format. Set it again with 'abq auth set-password'.")
    cost, block, parallel = (int(found[group]) for group in (1, 2, 3))
    key = _scrypt(password, base64.b64decode(found[4]), cost, block, parallel)
    return hmac.compare_digest(key, base64.b64decode(found[5]))


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=cost, r=block, p=parallel, maxmem=256 << 20, dklen=32)


def _parse(path: Path, mode: int) -> dict[str, str]:
    """Hashes by name.

    Raises AccountsError if other users can read the file, or it has another format.
    """
    if not stat.S_ISREG(mode):
        raise AccountsError(f"The password file {path} is not a regular file.")
    if os.name == "posix" and mode & 0o077:
        raise AccountsError(f"Other accounts of this machine can access the password file {path}: chmod 600 {path}")
    hashes = {}
    for number, line in enumerate(read_user_text(path, _MAX_FILE_BYTES).splitlines(), 1):
        name, colon, stored = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or not _HASH.fullmatch(stored):
            raise AccountsError(
                f"Line {number} of the password file {path} is not an account. Write it with 'abq auth set-password'."
            )
        hashes[name] = stored
    return hashes
