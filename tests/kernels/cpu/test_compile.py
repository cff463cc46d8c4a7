"""Compilation: cached on disk if possible, and working without a cache."""

import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest

from kernels.cpu import compile as compile_module
from kernels.cpu.compile import compiled
from kernels.cpu.decode import decode


def double(x: int) -> int:
    return 2 * x


def test_functions_work_without_a_writable_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compile_module.njit

    def no_locator(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available")
        return njit(**options)

    monkeypatch.setattr(compile_module, "njit", no_locator)
    assert compiled(double)(21) == 42


def test_an_edit_to_any_source_file_invalidates_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(double)(21) == 42
    cached, edited = compiled(double), compiled(double)
    assert cached(21) == 42
    assert sum(cached.stats.cache_hits.values()) == 1
    digest = uuid4().hex
    monkeypatch.setattr(compile_module, "source_hash", lambda: digest)
    assert edited(21) == 42
    assert sum(edited.stats.cache_misses.values()) == 1


PRODUCT = (
    "import sys\n"
    "import numpy as np\n"
    "from kernels import dispatch\n"
    "from kernels.cpu.decode import decode\n"
    "from kernels.formats.weight import pack_weight\n"
    "weight = pack_weight(np.ones((8, 64), int), 2, np.ones(8, np.float32), np.zeros(8, int))\n"
    "for act_bits in (8, 16):\n"
    "    for tokens in (1, 20):\n"
    "        dispatch.linear(np.ones((tokens, 64), np.float32), weight, act_bits)\n"
)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_second_process_neither_compiles_nor_imports_scipy() -> None:
    code = PRODUCT + "print(sum(decode.stats.cache_misses.values()), 'scipy.linalg' in sys.modules)"
    assert decode.stats.cache_path is not None
    run(code)
    assert run(code) == "0 False"


def test_other_numba_functions_can_still_use_blas() -> None:
    pytest.importorskip("scipy")
    product = "from numba import njit\nprint(njit(lambda a, b: a @ b)(np.ones((2, 3)), np.ones((3, 2)))[0, 0])"
    assert run(PRODUCT + product) == "3.0"
