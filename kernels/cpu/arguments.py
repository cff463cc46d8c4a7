"""Groups of arguments that the compiled functions share.

Numba passes a NamedTuple as its fields, at no cost.
Only the call from Python into compiled code is slower with a NamedTuple (about 1 us each, measured with Numba 0.68), so
functions that run once per decoded token take plain tuples and build the NamedTuple inside.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.formats.weight import PackedWeight

Array = NDArray[Any]

_NO_BIAS = np.empty(0, np.float32)


class Weight(NamedTuple):
    """The arrays and constants of a `PackedWeight`."""

    data: Array  # uint32 words, panels of 16 rows
    widths: Array  # int64, bits of each field, low bits first
    segment: int  # columns per scale
    spacing: np.int32  # distance of neighbouring levels in scales, a power of two
    act_clip: np.float32  # factor on each token's range
    scale: Array  # float32, (groups, n_padded) flat
    zero: Array  # int16, the same
    sums: Array  # int32, the same: sum of spacing * code - zero
    bias: Array  # float32 (n,), or empty


def weight_fields(weight: PackedWeight) -> tuple[Any, ...]:
    """The fields of `Weight`, in order, for a packed weight."""
    return (
        weight.data,
        weight.widths,
        weight.segment,
        np.int32(weight.spacing),
        np.float32(weight.act_clip),
        weight.panel_scale,
        weight.panel_zero,
        weight.panel_sum,
        _NO_BIAS if weight.bias is None else weight.bias,
    )


class Tokens(NamedTuple):
    """Quantized tokens, as `kernels.cpu.quantize.quantize_tokens` writes them."""

    codes: Array  # int8
    scale: Array  # float32 (m,)
    zero: Array  # int32 (m,)
    sums: Array  # int32 (m, groups), sums of codes over each group


class Rows(NamedTuple):
    """A range of tokens: `size` rows of the activations from row `first`."""

    first: int
    size: int


class Columns(NamedTuple):
    """A range of columns: `size` columns from column `first`, both multiples of 32."""

    first: int
    size: int


class Panels(NamedTuple):
    """Panels that are multiplied together.

    `size` panels from panel `first`, consecutive ones `apart` panels apart.
    """

    first: int
    size: int
    apart: int


class Output(NamedTuple):
    """The arrays that receive the product."""

    y: Array  # float32 (m, n)
    integers: Array  # int32 (m, n, groups) for the exact sums as well, or empty
