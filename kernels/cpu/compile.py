"""Compilation of the CPU kernels: without the GIL, cached on disk where possible.

Division follows NumPy's rules: a zero divisor raises no error.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit

from kernels.host.numba_internals import SourceHashCache, use_cache

_SUM_REORDERING = {"reassoc", "contract", "nsz"}
_functions: list[Any] = []


def compiled(function: Callable[..., Any], *, reorder_sums: bool = False, inline: bool = False) -> Any:
    """Compile `function` with Numba at its first call, and cache the result on disk.

    If neither the source folder nor the user's cache folder is writable, every process compiles it again.
    reorder_sums: allow LLVM to reorder float sums, which vectorizes them.  inline: always inline into compiled callers.
    """
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": _SUM_REORDERING if reorder_sums else False,
        "forceinline": inline,
    }
    try:
        dispatcher = njit(**options, cache=True)(function)
        use_cache(dispatcher, SourceHashCache(function, lambda: source_hash()))
    except RuntimeError:
        dispatcher = njit(**options)(function)
    _functions.append(dispatcher)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function that takes NamedTuples and is called for every group of columns.

    Inlined, its NamedTuples stay in registers. As a call, it would count references to every array in them.
    """
    return compiled(function, inline=True)


def compilations() -> int:
    """Number of functions that this process compiled because they were not in the cache."""
    return sum(sum(function.stats.cache_misses.values()) for function in _functions)


@cache
def source_hash() -> str:
    """Hash of every file that compiled code depends on.

    This folder with its subfolders, and the files that describe the processor and the layout of weights.
    """
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    others = [folder.parent / name for name in ("host/numba_internals.py", "host/processor.py", "formats/weight.py")]
    for file in (*sorted(folder.rglob("*.py")), *others):
        digest.update(file.read_bytes())
    return digest.hexdigest()
