"""Which instructions this process compiles for, and how wide its vectors are. No compilation happens here."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from numba.core.registry import cpu_target


@dataclass(frozen=True)
class Target:
    """An instruction set as the loops of `kernels.cpu.emit` see it."""

    name: str
    lanes: int  # int32 values in a vector
    decode_panels: int  # panels of 16 rows that a product of few tokens reads together
    held_sums: int  # vectors of sums that it holds in registers
    tile_panels: int  # the same for a tile of tile_tokens tokens
    tile_tokens: int
    has_dot: bool  # unsigned x signed byte dot product in hardware (VNNI)
    serial_products: int  # products of planes (p q) up to which counting bits takes less time than multiplying bytes


@cache
def features() -> frozenset[str]:
    """LLVM's names of the instruction sets that Numba compiles for (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES count)."""
    _, _, listed = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(name[1:] for name in listed.split(",") if name.startswith("+"))


@cache
def target() -> Target:
    """The best of AVX-512, AVX2 and plain vectors that the features allow."""
    have = features()
    if {"avx512f", "avx512bw", "avx512vl", "avx512vnni"} <= have:
        return Target("avx512-vnni", 16, 2, 16, 3, 8, True, 7 if "avx512vpopcntdq" in have else 1)
    if "avx2" in have:
        has_dot = "avxvnni" in have
        return Target("avx2", 8, 1, 8, 1, 4, has_dot, 1 if has_dot else 3)
    return Target("portable", 4, 1, 8, 1, 4, False, 0)


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()
