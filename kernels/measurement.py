"""One timed product: its median, its correctness, and what it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class KernelMeasurement:
    """One engine on one shape. Times are of the whole product, quantizing and packing the activations included.

    median_us is warm: the call before was the same one.  cold_us is of calls that rotate over copies of the weight,
    more than the last-level cache holds.  speedup compares warm with warm, with each engine's narrowest weights that
    hold as many bits, and the fastest of those.
    """

    precision: str
    n: int
    k: int
    m: int
    engine: str  # "abq", "torch-fp32", "torch-bf16", "torch-int8", "torch-int4pack", "onnxruntime" or "llama.cpp"
    path: str
    median_us: float
    iqr_us: float
    cold_us: float
    exact: bool  # equal to exact integers, the output's rounding aside (A16: within rounding of the float product)
    speedup: dict[str, float] = field(compare=False)  # baseline's median / this median, per baseline
    packed_bytes: int
    bytes_moved: int  # weight, activations and outputs, once each
    threads: int
    device: str
    read_gb_per_second: float  # of this machine with these threads: what streaming a weight can reach
    cold_iqr_us: float | None = None
    operations: int | None = None  # 2 p q m n k where bits are multiplied, else 2 m n k; None on a CPU
    ceiling_gop_per_second: float | None = None  # what such operations were measured to reach at most

    @property
    def limit(self) -> tuple[str, float] | None:
        """("memory" or "operations", share): what binds, and how much of it the cold time reaches; None: not known."""
        if self.operations is None or self.ceiling_gop_per_second is None:
            return None
        memory = self.bytes_moved / self.read_gb_per_second / 1e3
        operations = self.operations / self.ceiling_gop_per_second / 1e3
        name = "memory" if memory >= operations else "operations"
        return name, max(memory, operations) / self.cold_us


def spread(seconds: list[float]) -> float:
    """The interquartile range."""
    low, high = np.percentile(seconds, [25, 75])
    return float(high - low)


def baselines(bits: int, peers: Sequence[tuple[str, int, float]]) -> dict[str, float]:
    """The median to compare with, per engine: of its fastest among its narrowest weights that hold as many bits.

    peers: (engine, bits of a weight, median) of each.
    """
    found: dict[str, tuple[int, float]] = {}
    for engine, held, median in peers:
        if held >= bits and (held, median) < found.get(engine, (99, 0.0)):
            found[engine] = (held, median)
    return {engine: median for engine, (_, median) in found.items()}
