"""Linears and embeddings with 16-bit weights that compute in float32, and float32 copies of them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.quantization.quant_linear import replace_module
from kernels.half_products import bfloat16_product, float16_product

_PRODUCTS = {torch.bfloat16: bfloat16_product, torch.float16: float16_product}
_PART = 1 << 26  # weights converted to float32 at a time


class StoredLinear(nn.Linear):
    """A linear whose weight keeps the 16-bit dtype of the checkpoint. Inputs, sums and outputs are float32.

    The result is that of the weight in float32, bit for bit; for a single row on the CPU, up to the order of the sum.
    """

    @classmethod
    def wrap(cls, linear: nn.Linear) -> "StoredLinear":
        """Share the weight and bias of `linear`."""
        stored = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        stored.weight, stored.bias = linear.weight, linear.bias
        return stored

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) float32 to (..., out_features) float32."""
        if x.numel() == self.in_features and x.device.type == "cpu" and not x.requires_grad:
            return self._of_one_row(x)
        rows = max(1, _PART // self.in_features)
        if self.out_features <= rows:
            return nn.functional.linear(x, self.weight.float(), self.bias)
        y = torch.cat([nn.functional.linear(x, part.float()) for part in self.weight.split(rows)], dim=-1)
        return y if self.bias is None else y + self.bias

    def _of_one_row(self, x: Tensor) -> Tensor:
        bits = self.weight.detach().view(torch.uint16).numpy()
        product = _PRODUCTS[self.weight.dtype](bits, x.detach().reshape(-1).numpy())
        y = torch.from_numpy(product).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class StoredEmbedding(nn.Embedding):
    """An embedding whose weight keeps the 16-bit dtype of the checkpoint and that returns float32."""

    @classmethod
    def wrap(cls, embedding: nn.Embedding) -> "StoredEmbedding":
        """Share the weight of `embedding`."""
        rows, width = embedding.weight.shape
        stored = cls(rows, width, embedding.padding_idx, device="meta")
        stored.weight = embedding.weight
        return stored

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) int64 -> (..., width) float32."""
        return super().forward(ids).float()


def keep_stored(model: nn.Module) -> None:
    """Replace plain linears and embeddings with 16-bit weights by those that compute in float32, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module.weight.dtype in _PRODUCTS:
            replace_module(model, name, StoredLinear.wrap(module))
        elif type(module) is nn.Embedding and module.weight.dtype in _PRODUCTS:
            replace_module(model, name, StoredEmbedding.wrap(module))


def restore_plain(model: nn.Module) -> None:
    """Replace the modules of `keep_stored` by torch's, in place. Their weights keep their dtype."""
    for name, module in list(model.named_modules()):
        if name and isinstance(module, StoredLinear | StoredEmbedding):
            replace_module(model, name, _plain(module))


def _plain(module: StoredLinear | StoredEmbedding) -> nn.Module:
    """The same module as torch's class. The weight is shared."""
    if isinstance(module, StoredLinear):
        linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        linear.weight, linear.bias = module.weight, module.bias
        return linear
    rows, width = module.weight.shape
    embedding = nn.Embedding(rows, width, module.padding_idx, device="meta")
    embedding.weight = module.weight
    return embedding


def has_stored(module: nn.Module) -> bool:
    """Whether some linear or embedding below `module` keeps a 16-bit dtype and computes in float32."""
    return any(isinstance(part, StoredLinear | StoredEmbedding) for part in module.modules())


def converted_copy(module: Any, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Any:
    """A copy of a module with plain linears and embeddings, and its parameters in `dtype` on `device`.

    A parameter that is there already is shared, not copied. Buffers keep their dtype.
    """
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(device, dtype), requires_grad=False)
        for parameter in module.parameters()
    }
    copied = copy.deepcopy(module, memo)
    if isinstance(copied, StoredLinear | StoredEmbedding):
        copied = _plain(copied)
    restore_plain(copied)
    for part in copied.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))
    return copied
