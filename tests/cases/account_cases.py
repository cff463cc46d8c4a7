"""Accounts of the tests."""

import base64
import hashlib
from pathlib import Path

PASSWORD = "correct horse battery"


def write_accounts(file: Path, *names: str) -> None:
    """Replace a password file. Every account has the password PASSWORD, with a hash that is computed quickly."""
    salt = b"salt" * 4
    key = hashlib.scrypt(PASSWORD.encode(), salt=salt, n=16, r=8, p=3, dklen=32)
    stored = f"scrypt$16$8$3${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"
    new = file.with_name("accounts.new")
    new.touch(mode=0o600)
    new.write_text("".join(f"{name}:{stored}\n" for name in names))
    new.replace(file)
