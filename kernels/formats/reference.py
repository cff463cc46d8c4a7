"""Reference arithmetic: readable, slow int64 versions that every engine is tested against."""

import numpy as np
from numpy.typing import NDArray

from kernels.formats.planes import pack_bit_planes


def integer_totals(
    act_codes: NDArray[np.integer],
    act_zero: NDArray[np.integer],
    levels: NDArray[np.integer],
    zero: NDArray[np.integer],
    group_size: int,
) -> NDArray[np.int64]:
    """sum over a group's columns of (qa - za)(qw - zw), in int64.

    act_codes: (m, k).  act_zero: (m,).  levels: (n, k) qw, the codes of a weight times its spacing.  zero: (n, groups).
    The last group may be shorter than group_size.  Returns (m, n, groups) int64.  Equal to the paper's four-term
    expansion sum(qa qw) - zw sum(qa) - za sum(qw) + K za zw.
    """
    a = act_codes.astype(np.int64) - act_zero.astype(np.int64)[:, None]
    k = levels.shape[1]
    totals = [
        a[:, start : start + group_size] @ (levels[:, start : start + group_size].astype(np.int64) - zero[:, [g]]).T
        for g, start in enumerate(range(0, k, group_size))
    ]
    return np.stack(totals, axis=-1)


def bit_serial_product(act_codes: NDArray[np.integer], codes: NDArray[np.integer], q: int, p: int) -> NDArray[np.int64]:
    """sum(qa qw) from bit planes: sum over i < q, j < p of 2^(i+j) popcount(A_i & W_j).

    act_codes: (m, k) of q bits.  codes: (n, k) of p bits.  k a multiple of 64.  Returns (m, n) int64.
    """
    a, w = pack_bit_planes(act_codes, q), pack_bit_planes(codes, p)
    product = np.zeros((len(a), len(w)), np.int64)
    for i in range(q):
        for j in range(p):
            matches = np.bitwise_count(a[:, None, i] & w[None, :, j]).sum(axis=-1, dtype=np.int64)
            product += matches << (i + j)
    return product


def linear_from_totals(
    totals: NDArray[np.integer],
    act_scale: NDArray[np.float32],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """y = s_a sum_g(s_w total_g) + bias in float32.

    totals: (m, n, groups) integers.  act_scale: (m,).  scale: (n, groups).  Returns (m, n) float32.
    """
    y = np.zeros(totals.shape[:2], np.float32)
    for g in range(totals.shape[2]):
        y += totals[:, :, g].astype(np.float32) * scale[:, g]
    y *= act_scale[:, None]
    return y if bias is None else y + bias
