"""The command line as a process, for the tests of the attack."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]
Commands = Callable[..., "list[subprocess.CompletedProcess[str]]"]


class FinishedRun(NamedTuple):
    """A run that succeeded: its data folder, its run id, and the model folder and text file that it was made from."""

    data: Path
    run: str
    model: Path
    text: Path


def environment(data: Path) -> dict[str, str]:
    """The environment of a process of `abq` that uses the data folder `data`."""
    settings = {"ABQ_DATA_DIR": str(data), "ABQ_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **settings}


def command_line(data: Path, *words: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run `abq` in a process on the data folder `data`.

    options: of `subprocess.run`; `env` is added to the environment of this process.
    """
    variables = {**environment(data), **dict(options.pop("env", None) or {})}  # type: ignore[call-overload]
    arguments = {"timeout": 600, "cwd": ROOT, "text": True, "errors": "backslashreplace", **options}
    if "stdout" not in arguments:
        arguments["stdout"] = subprocess.PIPE
    if "stdin" not in arguments and "input" not in arguments:
        arguments["stdin"] = subprocess.DEVNULL
    command = [sys.executable, "-m", "app.cli", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, env=variables, **arguments)  # type: ignore[call-overload]


def assert_sentence(done: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    """Assert that a command ended as a user's error: exit code 2, and one line on stderr with these parts."""
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr[-2000:]
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("abq: "), done.stderr[-2000:]
    for part in parts:
        assert part in lines[0], f"{part!r} is not in {lines[0]!r}"


_MANY = """
import contextlib, io, json, os, sys, traceback
try:
    from app.cli.main import main
except ImportError:  # an older commit
    from app.cli import main

done = []
variables = dict(os.environ)
for words in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(variables)
    while words and words[0].startswith("ABQ_"):
        name, value = words.pop(0).split("=", 1)
        os.environ[name] = value
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = 1
            traceback.print_exc()
    done.append((code, out.getvalue(), err.getvalue()))
json.dump(done, sys.stdout)
"""


def command_lines(
    data: Path, commands: Sequence[Sequence[str]], timeout: float = 600, memory: int | None = None
) -> "list[subprocess.CompletedProcess[str]]":
    """Run several command lines of `abq` one after the other in one process, which saves the time of its imports.

    A command may start with settings, such as ABQ_THREADS=2.
    memory: limit of the process's address space in bytes.
    """
    limits = None if memory is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    done = subprocess.run(
        [sys.executable, "-c", _MANY],
        input=json.dumps([list(words) for words in commands]),
        stdout=subprocess.PIPE,
        env=environment(data),
        cwd=ROOT,
        text=True,
        timeout=timeout,
        preexec_fn=limits,
        check=True,
    )
    answers = json.loads(done.stdout)
    return [subprocess.CompletedProcess(words, *found) for words, found in zip(commands, answers, strict=True)]
