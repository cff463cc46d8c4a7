"""Standing back, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.background import SESSION_NICENESS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not SESSION_NICENESS.exists(), reason="this system divides its processors among processes alone")
@pytest.mark.parametrize("own_session", [True, False])
def test_it_stands_back_with_its_whole_session(own_session: bool) -> None:
    """Niceness counts within a session alone; in somebody else's session it leaves that as it is."""
    code = "import os; from kernels.background import *; stand_back(7); print(os.nice(0), SESSION_NICENESS.read_text())"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, start_new_session=own_session, capture_output=True, text=True
    )
    words, here = said.stdout.split(), SESSION_NICENESS.read_text().split()[-1]
    assert (words[0], words[-1]) == (str(os.nice(0) + 7), "7" if own_session else here), said.stderr
