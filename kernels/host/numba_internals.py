"""The private parts of Numba that the kernels use. Checked with Numba 0.62 to 0.68.

`tests/kernels/host/test_numba_internals.py` names the part that a new version of Numba has changed.
"""

from collections.abc import Callable
from typing import Any

from numba.core.caching import FunctionCache
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys


def compiled_features() -> frozenset[str]:
    """LLVM's names of the instruction sets that Numba compiles for, such as "avx2".

    Respects NUMBA_CPU_NAME and NUMBA_CPU_FEATURES. Numba has no public function for this.
    """
    _, _, listed = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(name[1:] for name in listed.split(",") if name.startswith("+"))


class SourceHashCache(FunctionCache):
    """Numba's disk cache with one more part in its key: a hash of source files.

    Numba itself notices an edit to a function's own file, but not to the functions and intrinsics that it inlines.
    """

    def __init__(self, function: Callable[..., Any], source_hash: Callable[[], str]) -> None:
        super().__init__(function)
        self._source_hash = source_hash

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the cached compilation for a signature, or None.

        Numba's own method first imports everything that a compilation may need, including SciPy's BLAS, which takes
        longer than all other imports. Cached code needs only the memory management; a compilation imports the rest.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return (*super()._index_key(signature, codegen), self._source_hash())


def use_cache(dispatcher: Any, cache: SourceHashCache) -> None:
    """Make a function compiled with `njit(cache=True)` use this cache."""
    dispatcher._cache = cache
