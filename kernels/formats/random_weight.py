"""Random packed weights for benchmarks."""

import numpy as np

from kernels.formats.weight import PackedWeight, pack_weight


def random_weight(
    random: np.random.Generator, n: int, k: int, bits: int, starred: bool, act_bits: int, group_size: int | None
) -> PackedWeight:
    """A weight (n, k) of random codes, scales and zero points.

    group_size: None for one scale per row.
    """
    planes = bits + 1 if starred else bits
    groups = 1 if group_size is None else -(-k // group_size)
    codes = random.integers(0, (1 << bits) + starred, (n, k), dtype=np.uint16)
    zero = np.full((n, groups), 1 << (bits - 1)) if starred else random.integers(0, 1 << bits, (n, groups))
    scale = random.uniform(0.01, 0.02, (n, groups)).astype(np.float32)
    return pack_weight(codes, planes, scale, zero, group_size, None, act_bits)
