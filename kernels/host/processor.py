"""The processor: its name, instruction sets, and the vector widths of the CPU kernels."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from kernels.host.numba_internals import compiled_features


@dataclass(frozen=True)
class Target:
    """An instruction set and the tile sizes of the loops in `kernels.cpu` on it."""

    name: str
    lanes: int  # int32 values in a vector
    decode_panels: int  # panels of 16 rows read together by the product of a few tokens
    held_sums: int  # accumulator vectors that fit in registers there
    prefetched_bytes: int  # how far ahead of that product's reads its prefetches are; 0: the hardware's alone
    tile_panels: int  # panels in a tile of tile_tokens tokens
    tile_tokens: int
    has_dot: bool  # unsigned x signed byte dot product in hardware (VNNI)
    serial_products: int  # largest p * q at which the bit-serial product is faster than the byte dot product


@cache
def features() -> frozenset[str]:
    """LLVM's names of the instruction sets that Numba compiles for.

    Respects NUMBA_CPU_NAME and NUMBA_CPU_FEATURES.
    """
    return compiled_features()


@cache
def target() -> Target:
    """Return the best of AVX-512, AVX2 and plain vectors that the features allow."""
    have = features()
    if {"avx512f", "avx512bw", "avx512vl", "avx512vnni"} <= have:
        return Target(
            name="avx512-vnni",
            lanes=16,
            decode_panels=2,
            held_sums=16,
            prefetched_bytes=0 if "sse4a" in have else 2048,  # only AMD has SSE4a; there, prefetches slow cold reads
            tile_panels=3,
            tile_tokens=8,
            has_dot=True,
            serial_products=7 if "avx512vpopcntdq" in have else 1,
        )
    portable = Target(
        name="portable",
        lanes=4,
        decode_panels=1,
        held_sums=8,
        prefetched_bytes=2048,
        tile_panels=1,
        tile_tokens=4,
        has_dot=False,
        serial_products=0,
    )
    if "avx2" in have:
        has_dot = "avxvnni" in have
        return replace(portable, name="avx2", lanes=8, has_dot=has_dot, serial_products=1 if has_dot else 3)
    return portable


def cpu_name() -> str:
    """Return the processor's name as the operating system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()
