"""Edits to a copy of a model folder, and a pickle that reveals whether it was opened."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the object in a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def write_safetensors(file: Path, header: object, body: bytes = b"") -> None:
    """Write a safetensors file with any header, valid or not."""
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + body)


class Canary:
    """Unpickling it creates the folder `target`."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)
