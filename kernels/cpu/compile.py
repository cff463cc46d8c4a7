"""How the engine's functions are compiled: without the GIL, with NumPy's division, kept on disk where possible."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """`function` under Numba, compiled at its first call and cached on disk, so that the next process starts at once.

    Where neither the source folder nor the user's cache folder can be written, it is compiled anew in each process.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:
        return njit(**options)(function)
