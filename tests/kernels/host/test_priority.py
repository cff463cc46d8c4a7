"""Standing back, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SAYS_ITS_NICENESS = """
import os
from kernels.host.priority import SESSION_NICENESS, lower_priority

def session():
    text = SESSION_NICENESS.read_text() if SESSION_NICENESS.exists() else ""
    return text.split()[-1] if text.strip() else "none"  # Linux without it, or switched off: the file is empty

before = session()
lower_priority(7)
print(os.nice(0), before, session())
"""


@pytest.mark.parametrize("own_session", [True, False])
def test_it_stands_back_with_its_whole_session(own_session: bool) -> None:
    """Niceness counts within a session alone; in somebody else's session it leaves that as it is."""
    said = subprocess.run(
        [sys.executable, "-c", SAYS_ITS_NICENESS],
        cwd=ROOT,
        start_new_session=own_session,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    niceness, before, after = said.stdout.split()
    assert niceness == str(os.nice(0) + 7)
    assert after == ("7" if own_session and before != "none" else before)
