"""GGUF files need the package of the extra `gguf`."""

from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="needs the extra gguf")


@pytest.fixture(scope="session")
def tokenizer_json(tiny_llama: Path) -> Path:
    """The tokenizer.json of the tiny models."""
    return tiny_llama / "tokenizer.json"
