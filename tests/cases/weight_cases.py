"""Random packed weights for the tests of the CPU engine."""

import numpy as np

from kernels.formats.weight import PackedWeight, pack_weight


def random_weight(
    seed: int, n: int, k: int, bits: int, starred: bool = False, group_size: int | None = None, act_bits: int = 8
) -> PackedWeight:
    random = np.random.default_rng(seed)
    groups = 1 if group_size is None else -(-k // group_size)
    codes = random.integers(0, (1 << bits) + starred, (n, k), dtype=np.uint16)
    spacing = 1 if starred else 1 + seed // 2 % 2
    zero = random.integers(0, spacing * ((1 << bits) - 1) + 1, (n, groups))
    if starred:
        zero[:] = 1 << (bits - 1)
    scale = random.uniform(0.1, 1.0, (n, groups)).astype(np.float32)
    bias = random.standard_normal(n, np.float32) if seed % 2 else None
    act_clip = 1.0 if seed % 3 else float(random.uniform(0.3, 1.0))
    return pack_weight(codes, bits + starred, scale, zero, group_size, bias, act_bits, act_clip, spacing=spacing)
