"""GemLite (Triton): W2A16 and W4A16 with groups, W8A8 with dynamic activation quantization.

Its autotuner runs at the first call with a shape and a range of token counts, and compiles about twenty kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kernels.cuda.ceiling import FP16_LIBRARY, INT8_LIBRARY
from kernels.cuda.peers.peer import GROUP, Peer, Product, from_groups, to_groups, to_int8

if TYPE_CHECKING:
    from torch import Tensor


def makers() -> dict[str, Callable[[Tensor, Tensor, Callable[[int], int]], Peer]]:
    """Factories of the peers, by precision.

    Raises the errors of importing GemLite, which needs Triton and a GPU.
    """
    library, helper = importlib.import_module("gemlite"), importlib.import_module("gemlite.helper")
    return {
        "W2A16": partial(_weight_only, library, helper.A16W2_HQQ_INT, 2),
        "W4A16": partial(_weight_only, library, helper.A16W4_HQQ_INT, 4),
        "W8A8": partial(_dynamic_int8, library, helper.A8W8_INT8_dynamic),
    }


def _weight_only(
    library: Any, processor: Any, bits: int, weight: Tensor, x: Tensor, copies_of: Callable[[int], int]
) -> Peer:
    import torch

    codes, scale, low = to_groups(weight, bits, torch.float16)
    zero = (-low.float() / scale.float()).half()
    layer = processor(device=weight.device, dtype=torch.float16).from_weights(codes, scale, zero)
    product = _product(library, layer, f"W{bits}A16", f"gemlite, groups of {GROUP}", FP16_LIBRARY, x, copies_of)
    stored_low = (-zero.float() * scale.float()).half()  # GemLite stores the zero point in float16
    return Peer(product, lambda some: x[some].double() @ from_groups(codes, scale, stored_low).T)


def _dynamic_int8(library: Any, processor: Any, weight: Tensor, x: Tensor, copies_of: Callable[[int], int]) -> Peer:
    import torch

    codes, scale = to_int8(weight)
    layer = processor(device=weight.device, dtype=torch.float16).from_weights(codes, scales=scale)
    product = _product(library, layer, "W8A8", "gemlite, one scale a row", INT8_LIBRARY, x, copies_of)

    def expected(some: Tensor) -> Tensor:
        tokens, token_scale = to_int8(x[some])
        return (tokens.double() @ codes.double().T) * token_scale.double() * scale.double().T

    return Peer(product, expected)


def _product(
    library: Any, layer: Any, precision: str, path: str, kind: str, x: Tensor, copies_of: Callable[[int], int]
) -> Product:
    """Copies of the layer's tensors, multiplied by the function that the layer's forward calls."""
    tensors, meta = [tensor.detach() for tensor in layer.get_tensor_args()], layer.get_meta_args()
    weight_bytes = sum(tensor.nbytes for tensor in tensors)
    return Product(
        engine="gemlite",
        precision=precision,
        path=path,
        weight_bytes=weight_bytes,
        weights=[[tensor.clone() for tensor in tensors] for _ in range(copies_of(weight_bytes))],
        multiply=lambda copy: library.forward_functional(x, None, copy, meta),
        kind=kind,
    )
