"""One token through a packed model without torch: between the products of a block there are four compiled calls.

Which models it is for stands in `decoder.py`.
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
    """A `Decoder` of packed weights in memory. K and V of a quantized cache stay integers."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Stacks the weights that read the same input, in place."""
        self._embedding, self._rotary = model.get_input_embeddings(), model.base_model.rotary_emb
        self._blocks = [_Block(block) for block in blocks_of(model)]
        self.kv_bits = self._blocks[0].kv_bits
        self._norm = _Norm(model.base_model.norm)

    @torch.inference_mode()
    def hidden(self, token: int, cache: PreallocatedCache) -> Tensor:
        """The last hidden state, (hidden,) float32, after one more token; the cache, which holds some, grows by it.

        Raises CacheFullError.
        """
        position = torch.tensor([[cache.next_position()]])
        embedded = self._embedding(torch.tensor([[token]]))
        cos, sin = (part[0, 0].numpy() for part in self._rotary(embedded, position))
        x, added = embedded[0, 0].numpy().copy(), np.empty(0, np.float32)
        for block, layer in zip(self._blocks, cache.layers, strict=True):
            added = block.run(x, added, cos, sin, layer)
        return torch.from_numpy(self._norm.of(x, added)[0])


class _Norm:
    def __init__(self, norm: Any) -> None:
        self._weight, self._epsilon = norm.weight.detach().numpy(), float(norm.variance_epsilon)

    def of(self, x: _Floats, added: _Floats) -> _Floats:
        """x += added; the norm of x, (1, hidden)."""
        return add_norm(x, added, self._weight, self._epsilon)


class _Stack:
    """Linears that read the same input: one product where their settings agree, else one after the other."""

    def __init__(self, linears: list[PackedLinear]) -> None:
        self._products = [(_weight_of(linear), linear.act_bits) for linear in stack_linears(linears)]

    def of(self, x: _Floats) -> _Floats:
        """(1, k) float32 -> (rows of all,) float32."""
        outputs = [linear(x, weight, bits)[0] for weight, bits in self._products]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


def _weight_of(linear: PackedLinear) -> PackedWeight:
    assert isinstance(linear.packed, PackedWeight)
    return linear.packed


class _Block:
    """One block: attention and MLP of one token."""

    def __init__(self, block: Any) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._before, self._between = _Norm(block.input_layernorm), _Norm(block.post_attention_layernorm)
        self._qkv = _Stack([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out, self._gate_up = _Stack([attention.o_proj]), _Stack([mlp.gate_proj, mlp.up_proj])
        self._down = _Stack([mlp.down_proj])
        self._heads = [linear.out_features // attention.head_dim for linear in (attention.q_proj, attention.k_proj)]
        self._scale = float(attention.scaling)
        self.kv_bits: int | None = attention.kv_bits

    def run(self, x: _Floats, added: _Floats, cos: _Floats, sin: _Floats, layer: PreallocatedLayer) -> _Floats:
        """x (hidden,) gets `added`, what the block before computed, and attention; returns what the MLP adds."""
        seen = self._attention(self._qkv.of(self._before.of(x, added)), cos, sin, layer)
        return self._down.of(gated(self._gate_up.of(self._between.of(x, self._out.of(seen)))))

    def _attention(self, qkv: _Floats, cos: _Floats, sin: _Floats, layer: PreallocatedLayer) -> _Floats:
        queries, kv = self._heads
        parts = qkv.reshape(queries + 2 * kv, -1)
        rotate(parts[: queries + kv], cos, sin)
        layer.append(parts[queries : queries + kv], parts[queries + kv :])
        return layer.attend(parts[:queries], self._scale)
