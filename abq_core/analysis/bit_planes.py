"""A weight read bit plane by bit plane, and one of its dot products as the kernels compute it.

The integer codes of a weight are binary pictures: code = sum over j of 2^j plane_j. A product with quantized
activations needs only counts of common bits (arXiv 2408.08554, BMMA decomposition).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from abq_core.analysis.histograms import snr_db
from abq_core.precision import Precision
from abq_core.quantization.plane_reading import without_lowest_planes
from abq_core.quantization.quantizers import QuantizedWeight, quantize_weight
from kernels.formats.activations import quantize_activations

TILE = 32  # rows and columns of the pictures
SHOWN_ACT_BITS = 8  # of the activation in the dot product if the precision keeps activations in 16 bits


@dataclass(frozen=True)
class BitProduct:
    """One output of a linear, over the columns of one scale group, from counts of common bits.

    counts: (act_bits, planes) int64, columns in which bit i of the activation and bit j of the weight are both 1.
    products: sum of 2^(i + j) counts, equal to the sum of act code times weight code.  act_sum, code_sum: sums of the
    codes.  act_zero, zero: the zero points.  act_scale, scale: the step sizes.  spacing: as in QuantizedWeight.
    columns: terms of the sum.  full: the product of the values at full precision.
    """

    counts: NDArray[np.int64]
    act_sum: int
    code_sum: int
    act_zero: int
    zero: int
    act_scale: float
    scale: float
    spacing: int
    columns: int
    full: float

    @property
    def products(self) -> int:
        """Sum over the columns of activation code times weight code."""
        i, j = np.indices(self.counts.shape)
        return int((self.counts << (i + j)).sum())

    @property
    def total(self) -> int:
        """The integer that the kernels compute: sum of (act code - act zero)(spacing code - zero)."""
        products = self.spacing * self.products - self.zero * self.act_sum
        return products - self.act_zero * self.spacing * self.code_sum + self.columns * self.act_zero * self.zero

    @property
    def value(self) -> float:
        """The output: the integer times both scales."""
        return self.total * self.act_scale * self.scale


@dataclass(frozen=True)
class BitPlanes:
    """What `bit_planes` finds.

    rows: of the weight.  planes: bit planes per weight.  tile: row, column, full, code and read_1 .. read_<planes>, the
    values after that many planes, highest first.  steps: planes, snr_db of the whole weight after that many.  product:
    None without activations.
    """

    rows: int
    planes: int
    tile: pd.DataFrame
    steps: pd.DataFrame
    product: BitProduct | None


@torch.no_grad()
def bit_planes(
    weight: Tensor, precision: Precision, row: int = 0, column: int = 0, activation: Tensor | None = None
) -> BitPlanes:
    """Round a weight to nearest and read it plane by plane.

    weight: (rows, k) float.  precision: must quantize weights.  row, column: where the tile of TILE x TILE begins,
    moved back if it would leave the weight.  activation: (k,) float, one token's input; the product is that with
    `row`, over the columns of the scale group that contains `column`.
    """
    rows, k = weight.shape
    first_row, first_column = (max(0, min(at, size - TILE)) for at, size in ((row, rows), (column, k)))
    inside = (slice(first_row, first_row + TILE), slice(first_column, first_column + TILE))
    weight = weight.detach().float().cpu()
    quantized = quantize_weight(weight, precision)
    planes = precision.stored_bits
    at_row, at_column = np.indices(weight[inside].shape)
    columns = {
        "row": at_row.ravel() + first_row,
        "column": at_column.ravel() + first_column,
        "full": weight[inside].flatten().numpy(),
        "code": quantized.codes[inside].flatten().numpy(),
    }
    steps = []
    for count in range(1, planes + 1):
        values = _read(quantized, planes, count, precision.levels)
        columns[f"read_{count}"] = values[inside].flatten().numpy()
        steps.append({"planes": count, "snr_db": snr_db(weight, values)})
    product = None
    if activation is not None:
        bits = precision.act_bits if precision.quantizes_activations else SHOWN_ACT_BITS
        product = _product(weight, quantized, planes, activation.float().cpu(), bits, min(row, rows - 1), column)
    return BitPlanes(rows, planes, pd.DataFrame(columns), pd.DataFrame(steps), product)


def _read(quantized: QuantizedWeight, planes: int, count: int, levels: int) -> Tensor:
    """The weight's values if only the `count` highest planes are read: (rows, k) float32.

    The codes that agree in those planes are adjacent; the middle of them stands for all.
    """
    if levels == 1 << planes:
        return without_lowest_planes(quantized, planes - count).dequantize()
    below = (1 << (planes - count)) - 1
    lowest = quantized.codes & ~below
    middle = (lowest + torch.clamp(lowest + below, max=levels - 1)).float() / 2
    return (quantized.spacing * middle - quantized.per_column(quantized.zero)) * quantized.per_column(quantized.scale)


def _product(
    weight: Tensor, quantized: QuantizedWeight, planes: int, activation: Tensor, act_bits: int, row: int, column: int
) -> BitProduct:
    group = min(column, weight.shape[1] - 1) // quantized.group_size
    columns = slice(group * quantized.group_size, (group + 1) * quantized.group_size)
    all_codes, act_scale, act_zero, _ = quantize_activations(activation.numpy()[None], act_bits)
    act = all_codes[0, columns].astype(np.int64)
    codes = quantized.codes[row, columns].numpy().astype(np.int64)
    act_planes = act >> np.arange(act_bits)[:, None] & 1
    code_planes = codes >> np.arange(planes)[:, None] & 1
    return BitProduct(
        counts=act_planes @ code_planes.T,
        act_sum=int(act.sum()),
        code_sum=int(codes.sum()),
        act_zero=int(act_zero[0]),
        zero=int(quantized.zero[row, group]),
        act_scale=float(act_scale[0]),
        scale=float(quantized.scale[row, group]),
        spacing=quantized.spacing,
        columns=len(codes),
        full=float(activation[columns].double() @ weight[row, columns].double()),
    )
