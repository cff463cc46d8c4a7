"""Humming: W2 and W4, with 16-bit activations (groups) or dynamic INT8 activations.

It compiles each kernel at its first call, with NVRTC or nvcc.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels.cuda.ceiling import FP16_LIBRARY, INT8_LIBRARY
from kernels.cuda.peers.peer import GROUP, Peer, Product, to_int8

if TYPE_CHECKING:
    from torch import Tensor


def makers() -> dict[str, Callable[[Tensor, Tensor, Callable[[int], int]], Peer]]:
    """Factories of the peers, by precision.

    Raises the errors of importing Humming, which needs Triton and a GPU.
    """
    layer = importlib.import_module("humming.layer").HummingLayer
    return {
        f"W{bits}A{act_bits}": partial(_layer_product, layer, bits, act_bits) for act_bits in (16, 8) for bits in (2, 4)
    }


def _layer_product(
    layer_class: Any, bits: int, act_bits: int, weight: Tensor, x: Tensor, copies_of: Callable[[int], int]
) -> Peer:
    import torch

    n, k = weight.shape
    in_groups = {"group_size": GROUP} if act_bits == 16 else {}
    layer = layer_class(
        shape_n=n,
        shape_k=k,
        weight_config={"dtype": f"int{bits}", **in_groups},
        input_config=None if act_bits == 16 else {"dtype": "int8"},
        torch_dtype=torch.float16,
    ).to(weight.device)
    layer.load_from_unquantized(weight)
    stored = layer.weight_schema.dequant_tensors(layer.state_dict())  # float32, dequantized from the stored codes
    layer.transform()
    weight_bytes = sum(parameter.nbytes for parameter in layer.parameters())

    def expected(some: Tensor) -> Tensor:
        if act_bits == 16:
            return x[some].double() @ stored.double().T
        tokens, scale = to_int8(x[some])
        return (tokens.double() @ stored.double().T) * scale.double()

    product = Product(
        engine="humming",
        precision=f"W{bits}A{act_bits}",
        path="humming, " + (f"groups of {GROUP}" if in_groups else "one scale a row"),
        weight_bytes=weight_bytes,
        weights=[layer, *(copy.deepcopy(layer) for _ in range(copies_of(weight_bytes) - 1))],
        multiply=lambda copied: copied(x),
        kind=FP16_LIBRARY if act_bits == 16 else INT8_LIBRARY,
    )
    return Peer(product, expected)
