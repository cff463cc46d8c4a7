"""The built-in text: documentation and source code of the running Python's standard library.

Three disjoint splits: `train` (for `train.py`), `calibration` and `evaluation`. A hash of each document's name decides,
so machines with the same Python version have the same splits.
"""

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Split = Literal["train", "calibration", "evaluation"]

# Generated tables, vendored wheels and tests are not prose or ordinary source code.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings"}
)
_GENERATED = frozenset({"topics.py", "mime.types", "entities.py", "pygram.py"})


@dataclass(frozen=True)
class Document:
    """One help topic or one module; `name` decides its split."""

    name: str
    text: str


def split_of(name: str) -> Split:
    """The split of a document: 1 in 20 is for calibration, 1 in 20 for evaluation."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 20
    return {0: "calibration", 1: "evaluation"}.get(bucket, "train")  # type: ignore[return-value]


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(f"topic:{name}", topics[name].strip() + "\n")


def _modules() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.intersection(relative.parts) or relative.name in _GENERATED:
            continue
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if len(text) > 200:
            yield Document(f"module:{relative.as_posix()}", text + "\n")


@cache
def documents(split: Split) -> tuple[Document, ...]:
    """All documents of a split: help topics, then modules, each sorted by name."""
    return tuple(d for source in (_topics(), _modules()) for d in source if split_of(d.name) == split)
