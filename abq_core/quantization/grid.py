"""Fake quantization of rows, differentiable: each row's range, the grid made of it, and rounding to the grid's levels.

On the CPU in the fused loops of `kernels.fake_quant`, since calibration spends most of its time here; elsewhere, and in
other types than float32, in tensor operations.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import fake_quant

GridOf = Callable[..., tuple[Tensor, Tensor]]  # (low, high, *factors) -> scale, zero


def row_ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest of each row of x (..., n), the range widened to hold 0: (..., 1) each."""
    return x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)


def on_own_grid(x: Tensor, grid_of: GridOf, factors: tuple[Tensor, ...], offset: Tensor | None, top: int) -> Tensor:
    """(clamp(round(x / scale + offset + zero), 0, top) - zero) * scale, where grid_of(low, high, *factors) is the grid.

    x, offset: (..., n).  low, high, scale, zero: (..., 1), the row's range widened to hold 0; zero is whole, or half of
    a whole number: what is whole of it is added after rounding.
    Gradients reach x, offset and factors. Rounding passes them as the identity; beyond the grid's ends x and offset get
    none but what moves the range.
    """
    if _fits_loops(x):
        value: Tensor = _FusedOnOwnGrid.apply(x, offset, top, grid_of, *factors)
    else:
        value = _OnGrid.apply(x, *grid_of(*row_ends(x), *factors), offset, top)
    return value


def _fits_loops(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


class _FusedOnOwnGrid(torch.autograd.Function):
    """`on_own_grid` in few passes over memory. The graph from range to grid has a few numbers a row: autograd keeps it.

    What an end's gradient is goes to the value that stands there, the first where there are several.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor | None, top: int, grid_of: GridOf, *factors: Tensor) -> Tensor:
        low, high, at = fake_quant.ends(_rows(x))
        with torch.set_grad_enabled(any(ctx.needs_input_grad)):
            ends = [torch.from_numpy(end).view(*x.shape[:-1], 1).requires_grad_() for end in (low, high)]
            leaves = [*ends, *(factor.detach().requires_grad_(factor.requires_grad) for factor in factors)]
            scale, zero = grid_of(*leaves)
        ctx.save_for_backward(x, offset)
        ctx.top, ctx.at, ctx.leaves, ctx.scale, ctx.zero = top, at, leaves, scale, zero
        value = fake_quant.on_grid(_rows(x), _column(scale), _column(zero), _rows_or_none(offset), top)
        return torch.from_numpy(value).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, offset = ctx.saved_tensors
        columns = _column(ctx.scale), _column(ctx.zero)
        given = _rows(gradients[0])
        for_x, *for_grid = fake_quant.on_grid_gradients(given, _rows(x), *columns, _rows_or_none(offset), ctx.top)
        result = torch.from_numpy(for_x)
        for_offset = None if offset is None else (result * torch.from_numpy(columns[0])[:, None]).view(x.shape)
        wanted = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        grid = [one for one in (ctx.scale, ctx.zero) if one.requires_grad]
        outer = [torch.from_numpy(one).view(like.shape) for one, like in zip(for_grid, grid, strict=False)]
        found = dict(zip(map(id, wanted), torch.autograd.grad(grid, wanted, outer, allow_unused=True), strict=True))
        for column, leaf in enumerate(ctx.leaves[:2]):
            at = torch.from_numpy(ctx.at[:, column])[:, None]
            if (end := found[id(leaf)]) is not None:
                result.scatter_add_(1, at.clamp(min=0), end.reshape(-1, 1) * (at >= 0))
        return result.view(x.shape), for_offset, None, None, *(found.get(id(leaf)) for leaf in ctx.leaves[2:])


def _rows(x: Tensor) -> Any:
    """(..., n) -> (rows, n) float32 in NumPy, the memory shared where it is contiguous."""
    return x.detach().reshape(-1, x.shape[-1]).contiguous().numpy()


def _rows_or_none(x: Tensor | None) -> Any:
    return None if x is None else _rows(x)


def _column(x: Tensor) -> Any:
    """(..., 1) -> (rows,) float32 in NumPy."""
    return x.detach().reshape(-1).contiguous().numpy()


class _OnGrid(torch.autograd.Function):
    """The levels of a grid in tensor operations: x, offset (..., n); scale, zero (..., 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, offset: Tensor | None, top: int) -> Tensor:
        steps = x / scale
        if offset is not None:
            steps += offset
        whole = zero.floor()
        steps.add_(zero - whole).round_().add_(whole)
        inside = (steps >= 0).logical_and_(steps <= top)
        value = steps.clamp_(0, top).sub_(zero).mul_(scale)
        ctx.save_for_backward(x, scale, value, inside)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, scale, value, inside = ctx.saved_tensors
        within = gradient * inside
        for_scale = for_zero = for_offset = None
        if ctx.needs_input_grad[1]:
            for_scale = ((gradient * value).sum(-1, keepdim=True) - (within * x).sum(-1, keepdim=True)) / scale
        if ctx.needs_input_grad[2]:
            for_zero = (within.sum(-1, keepdim=True) - gradient.sum(-1, keepdim=True)) * scale
        if ctx.needs_input_grad[3]:
            for_offset = within * scale
        return within, for_scale, for_zero, for_offset, None
