"""One timed product: its median, its correctness, and what it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class KernelMeasurement:
    """One engine on one shape.

    Times cover the whole product, including quantizing and packing the activations.
    median_us is warm: the same call repeated.  cold_us is from calls that rotate over copies of the weight that exceed
    the last-level cache.  speedup compares warm times, with each engine's narrowest weights that have at least as many
    bits, and the fastest of those.
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
    exact: bool  # equal to exact integers, apart from output rounding (A16: within rounding of the float product)
    speedup: dict[str, float] = field(compare=False)  # baseline's median / this median, per baseline
    packed_bytes: int
    bytes_moved: int  # weight, activations and outputs, once each
    threads: int
    device: str
    read_gb_per_second: float  # memory bandwidth with these threads: the limit of streaming a weight
    cold_iqr_us: float | None = None
    operations: int | None = None  # 2 p q m n k for bit-serial products, else 2 m n k; None on a CPU
    ceiling_gop_per_second: float | None = None  # measured peak of such operations

    @property
    def limit(self) -> tuple[str, float] | None:
        """The bottleneck and the share of it that the cold time reaches, or None if unknown.

        The bottleneck is "memory" or "operations".
        """
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
    """Baseline median per engine: its fastest weight of the narrowest width that has `bits`.

    peers: (engine, weight bits, median) of each peer.
    """
    found: dict[str, tuple[int, float]] = {}
    for engine, held, median in peers:
        if held >= bits and (held, median) < found.get(engine, (99, 0.0)):
            found[engine] = (held, median)
    return {engine: median for engine, (_, median) in found.items()}
