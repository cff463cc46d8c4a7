"""Run ids: "r-" followed by hexadecimal digits, such as r-0123456789."""

import re

_RUN_ID = re.compile(r"r-[0-9a-f]{4,32}")


def is_run_id(text: str) -> bool:
    """True for a well-formed run id. Such a text is safe as the name of a folder."""
    return _RUN_ID.fullmatch(text) is not None


def means_run(text: str) -> bool:
    """True for text intended as a run id, valid or mistyped: it starts with "r-"."""
    return text.startswith("r-")
