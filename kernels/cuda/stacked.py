"""Concatenate uploaded weights that read the same input, to multiply them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kernels.cuda.device_tensors import DeviceWeight
from kernels.cuda.fragments import TILE_ROWS

if TYPE_CHECKING:
    from torch import Tensor


def can_stack(weights: Sequence[DeviceWeight]) -> bool:
    """Whether weights can be concatenated along their rows.

    They must agree in everything but rows and have one scale per row; all but the last must have a multiple of 16 rows.
    """
    first = weights[0]
    return (
        not first.grouped
        and all(_settings(weight) == _settings(first) for weight in weights)
        and all(weight.n % TILE_ROWS == 0 for weight in weights[:-1])
    )


def stack(weights: Sequence[DeviceWeight]) -> tuple[DeviceWeight, list[DeviceWeight]]:
    """Concatenate weights (`can_stack`).

    Returns the whole, and new weights that are views of its parts.
    """
    import torch

    whole = replace(
        weights[0],
        n=sum(weight.n for weight in weights),
        data=torch.cat([weight.data for weight in weights]),
        scale=torch.cat([weight.scale for weight in weights], dim=1),
        zero=torch.cat([weight.zero for weight in weights], dim=1),
        sums=torch.cat([weight.sums for weight in weights], dim=1),
        bias=_bias(weights),
    )
    parts, tile = [], 0
    for weight in weights:
        tiles = slice(tile, tile + weight.tiles)
        rows = slice(tiles.start * TILE_ROWS, tiles.stop * TILE_ROWS)
        tile = tiles.stop
        parts.append(
            replace(
                weight,
                data=whole.data[tiles],
                scale=whole.scale[:, rows],
                zero=whole.zero[:, rows],
                sums=whole.sums[:, rows],
            )
        )
    return whole, parts


def _settings(weight: DeviceWeight) -> tuple[object, ...]:
    shape = weight.k, weight.planes, weight.segment, weight.groups, weight.spacing
    return *shape, weight.act_clip, weight.hadamard, weight.data.device


def _bias(weights: Sequence[DeviceWeight]) -> Tensor | None:
    import torch

    if all(weight.bias is None for weight in weights):
        return None
    return torch.cat([torch.zeros_like(w.scale[0]) if w.bias is None else w.bias for w in weights])
