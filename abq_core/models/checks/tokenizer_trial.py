"""Try a tokenizer.json, as a process with limits: `python -P tokenizer_trial.py FILE SECONDS BYTES`.

Prints one JSON object: {"largest_id": N}, or {"refused": "why"}. It runs as a script and imports nothing of this
project, so that it starts in a tenth of a second. A tokenizer that exceeds a limit ends the process.
"""

import json
import resource
import signal
import sys
from typing import Any

MAX_ADDED_TOKENS = 10_000  # Gemma 3 has 6,415
_MAX_STEPS = 256
_MAX_GROWTH = 32  # of a text by all steps together
_MAX_FRAME_TOKENS = 16  # tokens that are added to any text
_SAMPLES = (
    "",
    "The module provides functions to read 1234 files.\n\n\tdef open(path): return {'a': [0.5]}  # it's\r\n",
    "".join(map(chr, range(32, 127))),
    "a" * 1000,
    " " * 1000 + "a",
    "1" * 1000,
    "a1 " * 300,
    "\u00e9\u4e2d\u6587\u0440\u0443\u0441\u0301\U0001f600\u200b\u0000\ufffd\u0627\u0644" * 20,
)


def set_limits(seconds: float, memory: int) -> None:
    """End this process when it has used so much processor time or memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends a process by default


def try_file(path: str) -> dict[str, Any]:
    """The largest token id that the tokenizer can produce, or the reason why it is refused."""
    with open(path, "rb") as file:
        content = json.load(file)
    if not isinstance(content, dict):
        return {"refused": "it is not a JSON object"}
    added = len(content.get("added_tokens") or ())
    if added > MAX_ADDED_TOKENS:
        return {"refused": f"it adds {added:,} tokens; the limit is {MAX_ADDED_TOKENS:,}"}
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        steps = list(_objects(content.get(part)))
        if len(steps) > _MAX_STEPS:
            return {"refused": f"its {part} has {len(steps):,} steps; the limit is {_MAX_STEPS}"}
        if (growth := _growth(steps)) > _MAX_GROWTH:
            return {"refused": f"its {part} makes a text {growth:,.0f} times as long; the limit is {_MAX_GROWTH}"}
    largest = max([0, *_ids(content.get("post_processor"))])
    del content

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    for sample in _SAMPLES:
        ids = tokenizer.encode(sample).ids
        tokenizer.decode(ids)
        if len(ids) > (limit := _MAX_FRAME_TOKENS + _MAX_GROWTH * len(sample)):
            return {"refused": f"it makes {len(ids):,} tokens of {len(sample)} characters; the limit is {limit:,}"}
    return {"largest_id": max([largest, *tokenizer.get_vocab(with_added_tokens=True).values()])}


def _objects(value: Any) -> Any:
    """Every JSON object in `value`, at any depth."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            yield one
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)


def _growth(steps: list[dict[str, Any]]) -> float:
    """The factor by which replacements lengthen a text, all together."""
    growth = 1.0
    for step in steps:
        if step.get("type") != "Replace" or not isinstance(step.get("content"), str):
            continue
        pattern = step.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        matched = len(literal) if isinstance(literal, str) else 0
        longer = len(step["content"])
        growth = min(growth * (max(1.0, longer / matched) if matched else longer + 1), 1e18)
    return growth


def _ids(post_processor: Any) -> list[int]:
    """The token ids that a post-processor names."""
    ids: list[int] = []
    for one in _objects(post_processor):
        for value in one.values():
            if isinstance(value, list):
                ids += [item for item in value if type(item) is int]
    return ids


def main(path: str, seconds: str, memory: str) -> None:
    """Print the result of one trial."""
    set_limits(float(seconds), int(memory))
    try:
        result = try_file(path)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # a panic of the library's Rust code is no Exception
        result = {"refused": f"{type(error).__name__}: {str(error)[:200]}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
