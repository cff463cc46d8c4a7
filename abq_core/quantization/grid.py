"""Differentiable fake quantization of rows: range, grid, and rounding to its levels.

float32 tensors on the CPU use the fused loops of `kernels.fake_quant`, because calibration spends most of its time
here. Other devices and types use tensor operations.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from kernels import fake_quant

GridOf = Callable[..., tuple[Tensor, Tensor]]  # (low, high, *factors) -> scale, zero


def row_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each row of x (..., n), widened to include 0: (..., 1) each."""
    return x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)


def fake_quant_rows(x: Tensor, grid_of: GridOf, factors: tuple[Tensor, ...], offset: Tensor | None, top: int) -> Tensor:
    """Compute (clamp(round(x / scale + offset + zero), 0, top) - zero) * scale per row.

    x, offset: (..., n).  scale, zero = grid_of(low, high, *factors), all (..., 1); low and high are the row's range,
    widened to include 0.  zero: a multiple of one half; its integer part is added after rounding.
    Gradients reach x, offset and factors. Rounding uses the straight-through estimator; outside the grid's range x and
    offset only receive the gradient of the row's minimum and maximum.
    """
    if _uses_fused_loops(x):
        value: Tensor = _FusedFakeQuant.apply(x, offset, top, grid_of, *factors)
    else:
        value = _FakeQuant.apply(x, *grid_of(*row_range(x), *factors), offset, top)
    return value


def _uses_fused_loops(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


class _FusedFakeQuant(torch.autograd.Function):
    """`fake_quant_rows` in few passes over memory.

    The small graph from range to grid is left to autograd.
    The gradient of a row's minimum or maximum goes to the element that attains it (the first on ties). An end of 0 is
    fixed: it has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor | None, top: int, grid_of: GridOf, *factors: Tensor) -> Tensor:
        low, high, at = fake_quant.ends(_rows(x))
        with torch.set_grad_enabled(any(ctx.needs_input_grad)), _saved_as_is():
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
        for_x, *for_grid = fake_quant.on_grid_gradients(
            _rows(gradients[0]), _rows(x), *columns, _rows_or_none(offset), ctx.top
        )
        x_gradient = torch.from_numpy(for_x)
        offset_gradient = None
        if offset is not None:
            offset_gradient = (x_gradient * torch.from_numpy(columns[0])[:, None]).view(x.shape)
        inputs = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        outputs = [part for part in (ctx.scale, ctx.zero) if part.requires_grad]
        upstream = [torch.from_numpy(g).view(part.shape) for g, part in zip(for_grid, outputs, strict=False)]
        leaf_gradients = torch.autograd.grad(outputs, inputs, upstream, allow_unused=True)
        by_leaf = dict(zip(map(id, inputs), leaf_gradients, strict=True))
        for column, leaf in enumerate(ctx.leaves[:2]):  # the row's minimum and maximum
            at = torch.from_numpy(ctx.at[:, column])[:, None]
            if (end_gradient := by_leaf[id(leaf)]) is not None:
                x_gradient.scatter_add_(1, at.clamp(min=0), end_gradient.reshape(-1, 1) * (at >= 0))
        factor_gradients = (by_leaf.get(id(leaf)) for leaf in ctx.leaves[2:])
        return x_gradient.view(x.shape), offset_gradient, None, None, *factor_gradients


def _saved_as_is() -> saved_tensors_hooks:
    """Tensors saved in this context are kept, also within a checkpoint.

    The graph of the grid has its own backward call, for which a checkpoint would run the whole block once more.
    """
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _rows(x: Tensor) -> Any:
    """(..., n) -> (rows, n) float32 in NumPy; shares the memory of a contiguous tensor."""
    return x.detach().reshape(-1, x.shape[-1]).contiguous().numpy()


def _rows_or_none(x: Tensor | None) -> Any:
    return None if x is None else _rows(x)


def _column(x: Tensor) -> Any:
    """(..., 1) -> (rows,) float32 in NumPy."""
    return x.detach().reshape(-1).contiguous().numpy()


class _FakeQuant(torch.autograd.Function):
    """The same computation in tensor operations: x, offset (..., n); scale, zero (..., 1)."""

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
