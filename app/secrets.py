"""Secrets of the environment: what a worker never gets to see, and what no log may hold."""

import os
import re
from collections.abc import Mapping

_SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL)S?(_|$)", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_SHORTEST = 8  # a shorter value is hidden nowhere: it would spoil ordinary words
HIDDEN = "<secret>"


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that opens files of strangers; in it, the hub's library finds no stored token."""
    kept = {name: value for name, value in environment.items() if not _is_secret(name)}
    return {**kept, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull}


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without the values of secret variables, and without what looks like a token of the hub."""
    given = os.environ if environment is None else environment
    for name, value in given.items():
        if _is_secret(name) and len(value) >= _SHORTEST:
            text = text.replace(value, HIDDEN)
    return _HUB_TOKEN.sub(HIDDEN, text)


def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None and name not in ("TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH")
