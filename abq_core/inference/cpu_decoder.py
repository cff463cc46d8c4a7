"""Decode one token of a packed model on the CPU by compiled functions, without torch.

`decoder.py` decides which models use it.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from abq_core.inference.kv_cache import PreallocatedCache, PreallocatedLayer
from abq_core.inference.linear_stacks import stack_linears
from abq_core.models.architectures import blocks_of
from abq_core.quantization.quant_linear import PackedLinear
from kernels.decode_ops import add_norm, gated, rotate
from kernels.dispatch import linear
from kernels.formats.weight import PackedWeight

_Floats = NDArray[np.float32]


class CpuDecoder:
    """A `Decoder` for packed weights in memory. A quantized KV cache is stored as integers."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Stack the weights that read the same input, in place."""
        self._embedding, self._rotary = model.get_input_embeddings(), model.base_model.rotary_emb
        self._blocks = [_Block(block) for block in blocks_of(model)]
        self.kv_bits = self._blocks[0].kv_bits
        self._norm = _Norm(model.base_model.norm)

    @torch.inference_mode()
    def hidden(self, token: int, cache: PreallocatedCache) -> Tensor:
        """Append one token to a non-empty cache. Returns the last hidden state, (hidden,) float32.

        Raises CacheFullError.
        """
        position = torch.tensor([[cache.next_position()]])
        embedded = self._embedding(torch.tensor([[token]]))
        cos, sin = (part[0, 0].numpy() for part in self._rotary(embedded, position))
        x, added = embedded[0, 0].numpy().copy(), np.empty(0, np.float32)
        for block, layer in zip(self._blocks, cache.layers, strict=True):
            added = block.run(x, added, cos, sin, layer)
        return torch.from_numpy(self._norm.add_and_norm(x, added)[0])


class _Norm:
    """An RMSNorm module as NumPy arrays."""

    def __init__(self, norm: Any) -> None:
        self._weight, self._epsilon = norm.weight.detach().numpy(), float(norm.variance_epsilon)

    def add_and_norm(self, x: _Floats, added: _Floats) -> _Floats:
        """x += added, in place. Returns the norm of x, (1, hidden)."""
        return add_norm(x, added, self._weight, self._epsilon)


class _Stack:
    """Linears with a common input, multiplied at once if their settings agree."""

    def __init__(self, linears: list[PackedLinear]) -> None:
        self._products = [(_weight_of(linear), linear.act_bits) for linear in stack_linears(linears)]

    def multiply(self, x: _Floats) -> _Floats:
        """x (1, k) float32 -> the concatenated outputs, (n,) float32."""
        outputs = [linear(x, weight, bits)[0] for weight, bits in self._products]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


def _weight_of(linear: PackedLinear) -> PackedWeight:
    assert isinstance(linear.packed, PackedWeight)
    return linear.packed


class _Block:
    """One block: attention and MLP of one token."""

    def __init__(self, block: Any) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._attention_norm, self._mlp_norm = _Norm(block.input_layernorm), _Norm(block.post_attention_layernorm)
        self._qkv = _Stack([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out, self._gate_up = _Stack([attention.o_proj]), _Stack([mlp.gate_proj, mlp.up_proj])
        self._down = _Stack([mlp.down_proj])
        self._heads = attention.q_proj.out_features // attention.head_dim
        self._kv_heads = attention.k_proj.out_features // attention.head_dim
        self._scale = float(attention.scaling)
        self.kv_bits: int | None = attention.kv_bits

    def run(self, x: _Floats, added: _Floats, cos: _Floats, sin: _Floats, layer: PreallocatedLayer) -> _Floats:
        """Add `added` and attention to the residual x (hidden,), in place. Returns the MLP output.

        added: the previous block's MLP output, empty for the first block.
        """
        qkv = self._qkv.multiply(self._attention_norm.add_and_norm(x, added))
        attended = self._out.multiply(self._attention(qkv, cos, sin, layer))
        return self._down.multiply(gated(self._gate_up.multiply(self._mlp_norm.add_and_norm(x, attended))))

    def _attention(self, qkv: _Floats, cos: _Floats, sin: _Floats, layer: PreallocatedLayer) -> _Floats:
        heads, kv_heads = self._heads, self._kv_heads
        rows = qkv.reshape(heads + 2 * kv_heads, -1)
        rotate(rows[: heads + kv_heads], cos, sin)
        layer.append(rows[heads : heads + kv_heads], rows[heads + kv_heads :])
        return layer.attend(rows[:heads], self._scale)
