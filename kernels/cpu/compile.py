"""How the engine's functions are compiled: without the GIL, with NumPy's division, kept on disk where possible."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

from kernels.host import processor

_REORDERED = {"reassoc", "contract", "nsz"}
_functions: list[Any] = []


def compiled(function: Callable[..., Any], *, reorder_sums: bool = False) -> Any:
    """`function` under Numba, compiled at its first call and cached on disk, so that the next process starts at once.

    Where neither the source folder nor the user's cache folder can be written, it is compiled anew in each process.
    reorder_sums: sums of floats may be taken in any order, as vectors do.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": _REORDERED if reorder_sums else False}
    try:
        made = njit(**options, cache=True)(function)
        made._cache = _SourcesCache(function)
    except RuntimeError:
        made = njit(**options)(function)
    _functions.append(made)
    return made


def compiled_here() -> int:
    """How many functions this process compiled itself, since they were not on disk."""
    return sum(sum(function.stats.cache_misses.values()) for function in _functions)


class _SourcesCache(FunctionCache):
    """Numba's cache on disk, which by itself notices an edit to a function's own file, not to the loops in it."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is on disk for the signature, or None.

        Numba would first import all that a compilation may need, SciPy's BLAS with it, which takes longer than the rest
        together. What is compiled already needs its memory management alone; whoever compiles imports the rest then.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return (*super()._index_key(signature, codegen), _sources())


@cache
def _sources() -> str:
    """Hash of every file that compiled code may depend on: this folder and the vector widths of the processor."""
    digest = hashlib.sha256()
    for file in (*sorted(Path(__file__).parent.glob("*.py")), Path(processor.__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
