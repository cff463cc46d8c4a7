"""Return freed memory to the system."""

import ctypes
import sys
from functools import cache
from typing import Any


def return_freed_memory() -> None:
    """Give back what was freed; does nothing where the C library is not glibc.

    glibc keeps freed memory below the last live object of its heap: after the temporary tensors of many blocks, a
    multiple of what is in use.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
