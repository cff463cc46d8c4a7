"""The command line in the process of a test: for many commands that are refused, which would import torch each time."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

InlineCommand = Callable[..., "CompletedProcess[str]"]


def inline_commands(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "InlineCommand":
    """Return a function that runs `abq WORDS` on the data folder `data`, as a process would end."""
    from app.cli.main import main

    for name, value in {"ABQ_DATA_DIR": str(data), "ABQ_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> "CompletedProcess[str]":
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return CompletedProcess(words, code, out, err)

    return run
