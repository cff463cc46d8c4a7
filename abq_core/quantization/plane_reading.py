"""A quantized weight read at fewer bits: its highest bit planes are a coarser grid over the same range."""

from dataclasses import replace

from torch import Tensor

from abq_core.precision import Precision
from abq_core.quantization.quantizers import QuantizedWeight, fake_quant_weight, quantize_weight
from abq_core.quantization.weight_grid import WeightGrid

FEWEST_PLANES = 2


def fewer_planes(precision: Precision) -> range:
    """The numbers of planes at which a weight of this precision can be read, all of them first.

    Empty for weights in 16 bits, of at most FEWEST_PLANES bits, or with a star: the highest plane of 2^p + 1 levels
    tells only the last level from the others.
    """
    if precision.balanced or not precision.quantizes_weights or precision.weight_bits <= FEWEST_PLANES:
        return range(0)
    return range(precision.weight_bits, FEWEST_PLANES - 1, -1)


def without_lowest_planes(weight: QuantizedWeight, dropped: int) -> QuantizedWeight:
    """The weight without its `dropped` lowest planes.

    The codes that agree in the planes that remain become one code, whose value is the middle of theirs; no value is
    rounded.
    """
    if not dropped:
        return weight
    joined = 1 << dropped
    return replace(
        weight,
        codes=weight.codes >> dropped,
        scale=weight.scale / 2,
        zero=2 * weight.zero - weight.spacing * (joined - 1),
        spacing=2 * weight.spacing * joined,
    )


def fake_quant_fewer_planes(weight: Tensor, precision: Precision, grid: WeightGrid, dropped: int) -> Tensor:
    """`fake_quant_weight` of weight (rows, k), read without its `dropped` lowest planes.

    Gradients are those of the value with all planes (straight-through estimator).
    """
    value = fake_quant_weight(weight, precision, grid)
    if not dropped:
        return value
    read = without_lowest_planes(quantize_weight(weight, precision, grid), dropped).dequantize()
    return value + (read - value).detach()


def planes_to_drop(precision: Precision, step: int) -> int:
    """How many planes nested learning drops in an optimizer step.

    None in every other step; in the steps between, each possible number in turn.
    """
    fewer = len(fewer_planes(precision)) - 1
    return 0 if fewer < 1 or step % 2 == 0 else 1 + step // 2 % fewer
