"""A model folder that a test may damage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLaMA."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))
