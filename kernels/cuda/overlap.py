"""Overlapping launches (programmatic dependent launch), by ctypes: CuPy has no binding.

The structures are those of the CUDA driver API: `CUlaunchAttribute`, `CUlaunchConfig`, `cuLaunchKernelEx`.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

LOWEST_ARCH = 90  # first architecture with programmatic dependent launch
_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


class LaunchAttribute(ctypes.Structure):
    """`CUlaunchAttribute`.

    Its value is a union of 64 bytes; the attribute used here reads an int.
    """

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int * 16))


class LaunchConfig(ctypes.Structure):
    """`CUlaunchConfig`."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("attribute_count", ctypes.c_uint),
    )


def can_overlap(arch: int, library: str = _DRIVER) -> bool:
    """Whether an architecture (90 for sm_90) and the driver support overlapping launches."""
    try:
        return arch >= LOWEST_ARCH and hasattr(_driver(library), "cuLaunchKernelEx")
    except OSError:
        return False


def launch_overlapped(
    function: int,
    grid: tuple[int, int, int],
    threads: int,
    shared_bytes: int,
    stream: int,
    arguments: ctypes.Structure,
    library: str = _DRIVER,
) -> int:
    """Launch a kernel (a `CUfunction`) that may start before earlier launches end.

    Returns the driver's `CUresult`.
    The kernel itself must wait for earlier launches before it reads their results. Requires `can_overlap`.
    """
    attribute = LaunchAttribute(id=_STREAM_SERIALIZATION)
    attribute.value[0] = 1
    config = LaunchConfig(grid, (threads, 1, 1), shared_bytes, stream, ctypes.pointer(attribute), 1)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    return int(_driver(library).cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(function), pointers, None))


@cache
def _driver(library: str) -> ctypes.CDLL:
    return ctypes.CDLL(library)
