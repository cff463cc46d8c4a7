"""Process priority, tested in separate processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PRINT_NICENESS = """
import os
from kernels.host.priority import SESSION_NICENESS, lower_priority

def session():
    text = SESSION_NICENESS.read_text() if SESSION_NICENESS.exists() else ""
    return text.split()[-1] if text.strip() else "none"  # empty without autogroup

before = session()
lower_priority(7)
print(os.nice(0), before, session())
"""


@pytest.mark.parametrize("own_session", [True, False])
def test_a_session_leader_lowers_the_priority_of_its_session(own_session: bool) -> None:
    """A process that does not lead its session leaves the session's niceness unchanged."""
    said = subprocess.run(
        [sys.executable, "-c", PRINT_NICENESS],
        cwd=ROOT,
        start_new_session=own_session,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    niceness, before, after = said.stdout.split()
    assert niceness == str(os.nice(0) + 7)
    assert after == ("7" if own_session and before != "none" else before)
