"""What `decode_peers.py` asks of a column in one round, and the column's answer."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import psutil


class Request(NamedTuple):
    """One round: the token ids of a long prompt, of a short one, and how many tokens to decode after the short one."""

    long: list[int]
    short: list[int]
    tokens: int


def answer(request: Request, prompt: float, between: Sequence[float]) -> dict[str, Any]:
    """Mean seconds per token, and the resident memory of this process.

    prompt: seconds of the long prompt.  between: seconds between decoded tokens, empty if they are not timed.
    """
    resident, decode = psutil.Process().memory_info().rss, fmean(between) if between else None
    return {"prompt": prompt / len(request.long), "between": decode, "resident_bytes": resident}
