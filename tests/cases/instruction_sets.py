"""Run code in processes that compile for fewer instruction sets than this CPU has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.host.processor import target

CASES = Path(__file__).parent
TESTS = CASES.parent / "kernels"
OTHERS = {"avx2": ("haswell", "+avx2,+fma"), "portable": ("generic", "")}
# On AVX2 without VNNI, torch's int8 linear adds pairs of products in 16 bits, which saturate: its results are wrong.
MAY_SATURATE = frozenset({"torch-int8"} if target().name == "avx2" else ())
_CHECKED = """
import sys
sys.path[:0] = {folders!r}
from kernels.host.processor import target
assert target().name == {name!r}, target()
"""


def run_with(name: str, code: str) -> None:
    """Run Python code with one of OTHERS, with warnings as errors.

    Skips if this processor does not support it.
    """
    if name == "avx2" and target().name == "portable":
        pytest.skip("this processor has no AVX2")
    cpu, features = OTHERS[name]
    code = _CHECKED.format(folders=[str(CASES), str(TESTS), str(TESTS / "cpu")], name=name) + code
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
