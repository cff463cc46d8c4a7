"""Concatenate linears that read the same input, to multiply them at once."""

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

import kernels.formats.stacked
import kernels.gpu
from abq_core.inference.int8_linear import Int8Linear
from abq_core.quantization.quant_linear import PackedLinear
from kernels.formats.weight import PackedWeight

Linear = TypeVar("Linear", bound=nn.Module)


def stack_linears(linears: Sequence[Linear]) -> list[Linear]:
    """Concatenate linears along their rows, or return them unchanged if they differ otherwise.

    The linears become views of the whole, in place: no weight is stored twice.
    """
    whole = _concatenate(linears) if len(linears) > 1 else None
    return list(linears) if whole is None else [cast(Linear, whole)]


def _concatenate(linears: Sequence[nn.Module]) -> nn.Module | None:
    packed = [linear for linear in linears if isinstance(linear, PackedLinear)]
    floats = [linear for linear in linears if type(linear) is nn.Linear]
    int8 = [linear for linear in linears if isinstance(linear, Int8Linear)]
    if len(packed) == len(linears):
        return _concatenate_packed(packed)
    if len(floats) == len(linears):
        return _concatenate_floats(floats)
    return _concatenate_int8(int8) if len(int8) == len(linears) else None


def _concatenate_packed(linears: Sequence[PackedLinear]) -> PackedLinear | None:
    weights = [linear.packed for linear in linears]
    if len({(type(linear.packed), linear.act_bits) for linear in linears}) > 1:
        return None
    engine = kernels.formats.stacked if isinstance(weights[0], PackedWeight) else kernels.gpu
    if not engine.can_stack(weights):
        return None
    whole, parts = engine.stack(weights)
    for linear, part in zip(linears, parts, strict=True):
        linear.packed = part
    return PackedLinear(whole, linears[0].act_bits)


def _concatenate_floats(linears: Sequence[nn.Linear]) -> nn.Linear | None:
    if not _all_or_none_have_bias([linear.bias for linear in linears]):
        return None
    first = linears[0]
    whole = nn.Linear(first.in_features, 1, bias=first.bias is not None, device="meta")
    whole.out_features = sum(linear.out_features for linear in linears)
    for name, _ in first.named_parameters():
        parameters = [linear.get_parameter(name) for linear in linears]
        joined, parts = _join_rows(parameters)
        setattr(whole, name, nn.Parameter(joined, requires_grad=False))
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.data = part
    return whole


def _concatenate_int8(linears: Sequence[Int8Linear]) -> Int8Linear | None:
    biases = [linear.bias for linear in linears]
    if not _all_or_none_have_bias(biases):
        return None
    codes, code_parts = _join_rows([linear.codes for linear in linears])
    scale, scale_parts = _join_rows([linear.scale for linear in linears])
    for linear, code_part, scale_part in zip(linears, code_parts, scale_parts, strict=True):
        linear.codes, linear.scale = code_part, scale_part
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases if b is not None])
    return Int8Linear(codes, scale, bias)


def _all_or_none_have_bias(biases: Sequence[Tensor | None]) -> bool:
    return len({bias is None for bias in biases}) == 1


def _join_rows(tensors: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    """Concatenate along the rows. Returns the whole, and views of it in place of the tensors."""
    whole = torch.cat([tensor.detach() for tensor in tensors])
    return whole, whole.split([len(tensor) for tensor in tensors])
