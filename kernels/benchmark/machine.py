"""The machine that a timing depends on: processor, caches, memory, versions."""

import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from kernels.benchmark.bandwidth import issue_limit, read_bandwidth
from kernels.benchmark.peers import versions
from kernels.benchmark.timing import last_level_cache
from kernels.host.processor import cpu_name
from kernels.host.threads import cores

_BEYOND_CACHES = 256 << 20


def describe_machine(peers: list[str], threads: int, also: Sequence[str] = ()) -> dict[str, object]:
    """Describe the machine for a benchmark file.

    peers, also: engines and packages whose versions are included.
    read_gb_per_second: memory bandwidth with these threads.  issue_gb_per_second: packed W2 weights that W2A8 decode
    consumes from the L1 cache, where only instructions limit it.
    """
    packages = ("numpy", "numba", "llvmlite", "torch")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "flags": cpu_flags(),
        "cores": cores(),
        "threads": threads,
        "last_level_cache_bytes": last_level_cache(),
        "read_gb_per_second": read_bandwidth(threads, _BEYOND_CACHES),
        "issue_gb_per_second": threads * issue_limit(),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in (*packages, *also)},
            **versions(peers),
        },
    }


def cpu_flags() -> list[str]:
    """Vector instruction sets of the processor; empty if the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    listed = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in listed if flag.startswith(("avx", "amx", "fma", "f16c", "ssse3", "sse4"))]
