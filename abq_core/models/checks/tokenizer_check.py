"""Check a tokenizer.json by trying it in a process of its own, with limits of time and memory.

The tokenizers library reads the file and applies its rules in native code, where a hostile file can take any amount of
memory and time. `tokenizer_trial` therefore loads it first; only a file that passed is opened here.
"""

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path

from cachetools import LRUCache

from abq_core.models.checks import tokenizer_trial
from abq_core.models.checks.limited_process import LimitError, run_limited
from abq_core.models.checks.tokenizer_trial import MAX_ADDED_TOKENS
from abq_core.models.errors import ModelError, UnsafeModelError

__all__ = ["MAX_ADDED_TOKENS", "check_tokenizer"]

# Of processor time. A BPE of 254,000 tokens needs 0.2 s per MiB on an idle core, and more on a slow or shared one.
_SECONDS, _SECONDS_PER_MIB = 2.0, 1.0
# Needed: 23 MiB by the built-in model's; 341 MiB by 8.4 MiB of a BPE with 254,000 short tokens and 504,000 merges.
_BYTES, _BYTES_PER_BYTE = 96 << 20, 32
_REMEMBERED = 1024


@dataclass(frozen=True)
class _Verdict:
    """largest_id: of all tokens.  refused: why the tokenizer is refused, or None.  unsafe: it exceeded a limit."""

    largest_id: int = 0
    refused: str | None = None
    unsafe: bool = False


_LOCK = threading.Lock()
_verdicts: LRUCache[str, _Verdict] = LRUCache(_REMEMBERED)  # by the sha256 of the file


def check_tokenizer(file: Path) -> int:
    """Try a tokenizer.json. Returns the largest token id that it can produce.

    The result is remembered for files with equal contents. Raises UnsafeModelError for a tokenizer that exceeds the
    limits, ModelError for one that cannot be used.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with _LOCK:
        verdict = _verdicts.get(digest)
        if verdict is None:
            verdict = _verdicts[digest] = _trial(file)
    if verdict.refused is not None:
        error = UnsafeModelError if verdict.unsafe else ModelError
        raise error(f"{file} cannot be loaded: {verdict.refused}. Take the tokenizer from the model's original folder.")
    return verdict.largest_id


def _trial(file: Path) -> _Verdict:
    size = file.stat().st_size
    seconds, memory = _SECONDS + _SECONDS_PER_MIB * size / (1 << 20), _BYTES + _BYTES_PER_BYTE * size
    try:
        output = run_limited(tokenizer_trial.__file__, [str(file)], seconds, memory)
    except LimitError as error:
        return _Verdict(refused=f"trying it takes {error}", unsafe=True)
    return _Verdict(**json.loads(output.splitlines()[-1]))
