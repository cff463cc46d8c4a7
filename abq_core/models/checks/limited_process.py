"""Run a script of this package on untrusted input, in a process with limits of time and memory."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_WALL_SECONDS = 600  # on a machine that is busy with other work
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")
_PROJECT = Path(__file__).parents[3]


class LimitError(RuntimeError):
    """The process exceeded a limit. The message names it: "more than 1.0 seconds"."""


def run_limited(script: str, arguments: Sequence[str], seconds: float, memory: int, text: str = "") -> bytes:
    """Run `python -P SCRIPT ARGUMENTS SECONDS BYTES` with `text` as its input. Returns what it writes to stdout.

    The script sets the limits itself: `seconds` of processor time, `memory` in bytes. Its environment holds no settings
    or secrets of this process. Raises LimitError.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-P", script, *arguments, str(seconds), str(memory)],
            env={**environment, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(_PROJECT)},
            input=text.encode("utf-8"),
            capture_output=True,
            timeout=_WALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise LimitError(f"more than {_WALL_SECONDS} seconds") from error
    if done.returncode == -signal.SIGPROF:
        raise LimitError(f"more than {seconds:.1f} seconds")
    if done.returncode != 0:
        raise LimitError(f"more than {memory >> 20:,} MiB of memory")
    return done.stdout
