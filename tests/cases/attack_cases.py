"""The command line as a process, for the tests of the attack."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


class FinishedRun(NamedTuple):
    """A run that succeeded: its data folder, its run id, and the model folder and text file that it was made from."""

    data: Path
    run: str
    model: Path
    text: Path


def command_line(data: Path, *words: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run `abq` in a process on the data folder `data`.

    options: of `subprocess.run`; `env` is added to the environment of this process.
    """
    settings = {"ABQ_DATA_DIR": str(data), "ABQ_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings, **dict(options.pop("env", None) or {})}  # type: ignore[call-overload]
    arguments = {"timeout": 120, "cwd": ROOT, "text": True, "errors": "backslashreplace", **options}
    if "stdout" not in arguments:
        arguments["stdout"] = subprocess.PIPE
    if "stdin" not in arguments and "input" not in arguments:
        arguments["stdin"] = subprocess.DEVNULL
    command = [sys.executable, "-m", "app.cli", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, env=environment, **arguments)  # type: ignore[call-overload]


def assert_sentence(done: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    """Assert that a command ended as a user's error: exit code 2, and one line on stderr with these parts."""
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr[-2000:]
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("abq: "), done.stderr[-2000:]
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"
