"""Per-token activation quantization in NumPy, bit-equal to what calibration simulates."""

import numpy as np
from numpy.typing import NDArray

from kernels.formats.planes import ShapeError


class NotFiniteError(ShapeError):
    """A token with NaN, infinity, or a range that overflows float32, so that it has no scale."""


def not_finite(x: NDArray[np.float32], token: int) -> NotFiniteError:
    """Build the error of one token: its first value that is not finite, or its range.

    x: (m, k).
    """
    row = x[token]
    wrong = np.flatnonzero(~np.isfinite(row))
    what = f"has {row[wrong[0]]} in column {wrong[0]}" if wrong.size else f"ranges from {row.min():g} to {row.max():g}"
    return NotFiniteError(
        f"Row {token} of an input {x.shape} {what}, so the token has no finite float32 scale. Check what "
        "produced this input; a model that overflows needs more bits or another method."
    )


def refuse_not_finite(x: NDArray[np.float32]) -> None:
    """Raise NotFiniteError for the first token of x (m, k) with NaN or infinity, if any."""
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise not_finite(x, int(finite.argmin()))


def quantize_activations(
    x: NDArray[np.float32], bits: int, clip: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    """Quantize each row of x (m, k) float32 to 2^bits levels, bits in 1..8.

    scale = (hi - lo) / n, zero = rint(-lo / scale), code = clamp(rint(x / scale) + zero, 0, n), n = 2^bits - 1; the
    range always contains 0, ties round to even, a row of zeros has scale 1.  clip: float32 factor in (0, 1] on lo and
    hi; values outside are clamped, the rest get a smaller scale.  Returns codes (m, k) uint8, scale (m,) float32, zero
    (m,) int32 and the sums of the codes (m,) int64.  Raises ShapeError if x is not 2-D or bits are out of range, and
    NotFiniteError.
    """
    if x.ndim != 2:
        raise ShapeError(f"activations must be (tokens, channels), got shape {x.shape}")
    if not 1 <= bits <= 8:
        raise ShapeError(f"activations can have 1..8 bits, got {bits}")
    x = np.asarray(x, np.float32)
    levels = np.float32((1 << bits) - 1)
    refuse_not_finite(x)
    lo = np.minimum(x.min(axis=1, initial=0), np.float32(0)) * np.float32(clip)
    hi = np.maximum(x.max(axis=1, initial=0), np.float32(0)) * np.float32(clip)
    with np.errstate(over="ignore", under="ignore"):
        scale = (hi - lo) / levels
        if not np.isfinite(scale).all():
            raise not_finite(x, int(np.isfinite(scale).argmin()))
        scale = np.where(scale > 0, scale, np.float32(1))
        zero = np.rint(-lo / scale)
        codes = np.clip(np.rint(x / scale[:, None]) + zero[:, None], 0, levels).astype(np.uint8)
    return codes, scale, zero.astype(np.int32), codes.sum(axis=1, dtype=np.int64)
