"""What a timing depends on besides the code: processor, instructions, caches, memory, versions."""

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
    """The machine as a benchmark's file names it. peers, also: engines and packages whose versions count too.

    read_gb_per_second: of memory, with so many threads.  issue_gb_per_second: of packed W2 weights that W2A8 decode
    consumes from the first cache, so that nothing but instructions binds it.
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
    """The vector instructions that the processor says it has; none where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    listed = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in listed if flag.startswith(("avx", "amx", "fma", "f16c", "ssse3", "sse4"))]
