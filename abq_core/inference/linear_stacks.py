"""Linears that read the same input, as one: a token is quantized once for all, and fewer products are started."""

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
    """One linear with the rows of all, where they differ in nothing else, or the linears as they are.

    They go on as parts of the whole, in place: no weight is held twice.
    """
    whole = _whole(linears) if len(linears) > 1 else None
    return list(linears) if whole is None else [cast(Linear, whole)]


def _whole(linears: Sequence[nn.Module]) -> nn.Module | None:
    packed = [linear for linear in linears if isinstance(linear, PackedLinear)]
    floats = [linear for linear in linears if type(linear) is nn.Linear]
    eights = [linear for linear in linears if isinstance(linear, Int8Linear)]
    if len(packed) == len(linears):
        return _packed(packed)
    if len(floats) == len(linears):
        return _in_floats(floats)
    return _in_int8(eights) if len(eights) == len(linears) else None


def _packed(linears: Sequence[PackedLinear]) -> PackedLinear | None:
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


def _in_floats(linears: Sequence[nn.Linear]) -> nn.Linear | None:
    if not _have_one_bias([linear.bias for linear in linears]):
        return None
    first = linears[0]
    whole = nn.Linear(first.in_features, 1, bias=first.bias is not None, device="meta")
    whole.out_features = sum(linear.out_features for linear in linears)
    for name, _ in first.named_parameters():
        parameters = [linear.get_parameter(name) for linear in linears]
        joined, parts = _joined(parameters)
        setattr(whole, name, nn.Parameter(joined, requires_grad=False))
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.data = part
    return whole


def _in_int8(linears: Sequence[Int8Linear]) -> Int8Linear | None:
    biases = [linear.bias for linear in linears]
    if not _have_one_bias(biases):
        return None
    codes, code_parts = _joined([linear.codes for linear in linears])
    scale, scale_parts = _joined([linear.scale for linear in linears])
    for linear, code_part, scale_part in zip(linears, code_parts, scale_parts, strict=True):
        linear.codes, linear.scale = code_part, scale_part
    bias = None if biases[0] is None else torch.cat([b.detach() for b in biases if b is not None])
    return Int8Linear(codes, scale, bias)


def _have_one_bias(biases: Sequence[Tensor | None]) -> bool:
    """Whether all have a bias or none has."""
    return len({bias is None for bias in biases}) == 1


def _joined(tensors: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    """The rows of all, and the parts of it that are the tensors."""
    whole = torch.cat([tensor.detach() for tensor in tensors])
    return whole, whole.split([len(tensor) for tensor in tensors])
