"""Per-token activation quantization in NumPy, to the bit what calibration simulates."""

import numpy as np
from numpy.typing import NDArray

from kernels.planes import ShapeError


def quantize_activations(
    x: NDArray[np.float32], bits: int, clip: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    """Quantize each row of x (m, k) float32 to 2^bits levels, bits in 1..8.

    scale = (hi - lo) / n, zero = rint(-lo / scale), code = clamp(rint(x / scale) + zero, 0, n), n = 2^bits - 1; the
    range always contains 0, ties round to even, a row of zeros has scale 1.  clip: factor in (0, 1] on lo and hi, in
    float32: what lies beyond is clamped, and all else gets finer steps.  Returns codes (m, k) uint8, scale (m,)
    float32, zero (m,) int32 and the codes' sums (m,) int64.  A row with NaN or infinity has scale NaN and codes 0, so
    that what is computed from it is NaN as well.  Raises ShapeError where x is not 2-D or bits are out of range.
    """
    if x.ndim != 2:
        raise ShapeError(f"activations must be (tokens, channels), got shape {x.shape}")
    if not 1 <= bits <= 8:
        raise ShapeError(f"activations can have 1..8 bits, got {bits}")
    x = np.asarray(x, np.float32)
    levels = np.float32((1 << bits) - 1)
    finite: NDArray[np.bool_] = np.all(np.isfinite(x), axis=1)
    safe = x if finite.all() else np.where(finite[:, None], x, np.float32(0))
    lo = np.minimum(safe.min(axis=1, initial=0), np.float32(0)) * np.float32(clip)
    hi = np.maximum(safe.max(axis=1, initial=0), np.float32(0)) * np.float32(clip)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale = (hi - lo) / levels
        scale = np.where(scale > 0, scale, np.float32(1))
        zero = np.rint(-lo / scale)
        codes = np.clip(np.rint(safe / scale[:, None]) + zero[:, None], 0, levels).astype(np.uint8)
    scale = np.where(finite, scale, np.float32(np.nan))
    return codes, scale, zero.astype(np.int32), codes.sum(axis=1, dtype=np.int64)
