"""Every promise in its long form; `python tests/soak` prints the same as a table."""

from pathlib import Path

import pytest
from promises import PROMISES


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PROMISES)
def test_the_promise_is_held(name: str, tmp_path: Path) -> None:
    outcome = PROMISES[name].check(tmp_path, False)
    assert outcome.held, f"{outcome.figure}; limit: {PROMISES[name].limit}"
