"""Secrets in the environment: workers do not receive them, and logs do not contain them."""

import os
import re
from collections.abc import Mapping

_SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL)S?(_|$)", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_MIN_LENGTH = 8  # shorter values are not redacted: they occur in ordinary words
HIDDEN = "<secret>"


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without secrets, for a process that opens untrusted files.

    The stored Hugging Face token is also hidden.
    """
    public = {name: value for name, value in environment.items() if not _is_secret(name)}
    return {**public, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN_PATH": os.devnull}


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with secrets replaced by HIDDEN.

    Secrets are the values of secret variables, and anything like a Hugging Face token.
    """
    variables = os.environ if environment is None else environment
    for name, value in variables.items():
        if _is_secret(name) and len(value) >= _MIN_LENGTH:
            text = text.replace(value, HIDDEN)
    return _HUB_TOKEN.sub(HIDDEN, text)


def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None and name not in ("TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH")
