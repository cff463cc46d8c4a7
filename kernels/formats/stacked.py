"""Stack weights that read the same input, to quantize and start threads once per token."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kernels.formats.weight import PANEL_ROWS, PackedWeight, aligned_zeros


def can_stack(weights: Sequence[PackedWeight]) -> bool:
    """Whether weights can be stacked.

    They must differ only in rows and have one scale per row; all but the last must fill their panels.
    """
    first = weights[0]
    return (
        first.groups == 1
        and all(_settings(weight) == _settings(first) for weight in weights)
        and all(weight.n % PANEL_ROWS == 0 for weight in weights[:-1])
    )


def stack(weights: Sequence[PackedWeight]) -> tuple[PackedWeight, list[PackedWeight]]:
    """Return one weight with the rows of all (`can_stack`), and views of it as the weights.

    The codes are stored once.
    """
    data = aligned_zeros(sum(weight.data.size for weight in weights))
    np.concatenate([weight.data for weight in weights], out=data)
    whole = replace(
        weights[0],
        n=sum(weight.n for weight in weights),
        data=data,
        panel_scale=np.concatenate([weight.panel_scale for weight in weights]),
        panel_zero=np.concatenate([weight.panel_zero for weight in weights]),
        panel_sum=np.concatenate([weight.panel_sum for weight in weights]),
        bias=_bias(weights),
    )
    parts, word, row = [], 0, 0
    for weight in weights:
        words, rows = slice(word, word + weight.data.size), slice(row, row + weight.panel_scale.size)
        word, row = words.stop, rows.stop
        parts.append(
            replace(
                weight,
                data=data[words],
                panel_scale=whole.panel_scale[rows],
                panel_zero=whole.panel_zero[rows],
                panel_sum=whole.panel_sum[rows],
            )
        )
    return whole, parts


def _settings(weight: PackedWeight) -> tuple[object, ...]:
    layout = weight.k, weight.planes, weight.segment, weight.widths.tolist(), weight.spacing
    return *layout, weight.act_clip, weight.hadamard


def _bias(weights: Sequence[PackedWeight]) -> NDArray[np.float32] | None:
    if all(weight.bias is None for weight in weights):
        return None
    return np.concatenate([np.zeros(w.n, np.float32) if w.bias is None else w.bias for w in weights])
