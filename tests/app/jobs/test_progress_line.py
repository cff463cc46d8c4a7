"""Progress on stderr.

A bar that moves on a terminal, plain lines every few seconds if stderr is a file.
"""

import os
import pty
import subprocess
import sys

import pytest

from app.jobs import progress_line
from app.jobs.progress_line import ProgressLine

ON_A_TERMINAL = """
from app.jobs.progress_line import ProgressLine
with ProgressLine() as line:
    line.show("W2*A8 [abq]", 0.25, "Calibrating block 1 of 6; " + "x" * 200, 72.0)
    line.show("W2*A8 [abq]", 0.5, "Calibrating block 2 of 6.", None)
    raise SystemExit(3)
"""


def test_a_file_gets_one_plain_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: seconds[0])
    with ProgressLine() as line:
        line.show("W4A4 [abq]", 0.25, "Calibrating.", 72.0)
        line.show("W4A4 [abq]", 0.26, "Calibrating.", 71.0)  # too soon
        seconds[0] = progress_line.LINE_SECONDS
        line.show("W4A4 [abq]", 0.5, "Measuring " + "x" * 200, None)
        seconds[0] *= 2
        line.show("W4A4 [abq]", 0.5, "Measuring " + "x" * 200, None)  # nothing new
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "W4A4 [abq]   25.0 %, 1 min 12 s left  Calibrating.",
        f"W4A4 [abq]   50.0 %  Measuring {'x' * 200}",
    ]


def test_a_terminal_shows_one_moving_line_that_is_removed_at_the_end() -> None:
    terminal, child_side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL], stdout=subprocess.PIPE, stderr=child_side, env=environment
    )
    os.close(child_side)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux: the process has closed its side
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    out, _ = process.communicate()
    text = shown.decode()
    assert process.returncode == 3 and out == b""
    assert "W2*A8 [abq]" in text and "25.0 %, 1 min 12 s left" in text and "x" * 101 not in text
    assert text.rstrip().endswith("\x1b[2K"), "the line is erased"
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is shown again, also after an error"
