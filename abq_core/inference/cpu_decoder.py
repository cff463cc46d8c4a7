"""Decode one token of a packed model on the CPU by compiled functions, without torch.

`decoder.py` decides which models use it, and `decode_profile.py` times its operations.
"""

import copy
from collections.abc import Callable
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


ChangeOperation = Callable[[str, Callable[..., Any]], Callable[..., Any]]
LINEARS, ATTENTION, NORMS, EMBEDDING = "linears", "attention", "norms and gates", "embedding"


class CpuDecoder:
    """A `Decoder` for packed weights in memory. A quantized KV cache is stored as integers."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Stack the weights that read the same input, in place."""
        self._embed = _Embedding(model).at
        self._blocks = [_Block(block) for block in blocks_of(model)]
        self.kv_bits = self._blocks[0].kv_bits
        self._norm = _Norm(model.base_model.norm).add_and_norm

    def with_operations(self, change: ChangeOperation) -> "CpuDecoder":
        """A decoder with the same weights, whose operations are `change(kind, operation)`.

        kind: LINEARS, ATTENTION, NORMS or EMBEDDING.
        """
        changed = copy.copy(self)
        changed._embed, changed._norm = change(EMBEDDING, self._embed), change(NORMS, self._norm)
        changed._blocks = [block.with_operations(change) for block in self._blocks]
        return changed

    @torch.inference_mode()
    def hidden(self, token: int, cache: PreallocatedCache) -> Tensor:
        """Append one token to a non-empty cache. Returns the last hidden state, (hidden,) float32.

        Raises CacheFullError.
        """
        x, cos, sin = self._embed(token, cache.next_position())
        added = np.empty(0, np.float32)
        for block, layer in zip(self._blocks, cache.layers, strict=True):
            added = block.run(x, added, cos, sin, layer)
        return torch.from_numpy(self._norm(x, added)[0])


class _Embedding:
    """Embedding and rotary modules, called for one token."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._embedding, self._rotary = model.get_input_embeddings(), model.base_model.rotary_emb

    def at(self, token: int, position: int) -> tuple[_Floats, _Floats, _Floats]:
        """The token's embedding, (hidden,), to be overwritten; cos and sin of its position, (d,)."""
        embedded = self._embedding(torch.tensor([[token]]))
        cos, sin = (part[0, 0].numpy() for part in self._rotary(embedded, torch.tensor([[position]])))
        return embedded[0, 0].numpy().copy(), cos, sin


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
        self._attention_norm = _Norm(block.input_layernorm).add_and_norm
        self._mlp_norm = _Norm(block.post_attention_layernorm).add_and_norm
        self._qkv = _Stack([attention.q_proj, attention.k_proj, attention.v_proj]).multiply
        self._attend = _Attention(attention).attend
        self._out = _Stack([attention.o_proj]).multiply
        self._gate_up = _Stack([mlp.gate_proj, mlp.up_proj]).multiply
        self._gated = gated
        self._down = _Stack([mlp.down_proj]).multiply
        self.kv_bits: int | None = attention.kv_bits

    def with_operations(self, change: ChangeOperation) -> "_Block":
        """As `CpuDecoder.with_operations`."""
        changed = copy.copy(self)
        changed._qkv, changed._out = change(LINEARS, self._qkv), change(LINEARS, self._out)
        changed._gate_up, changed._down = change(LINEARS, self._gate_up), change(LINEARS, self._down)
        changed._attend = change(ATTENTION, self._attend)
        changed._attention_norm, changed._mlp_norm = change(NORMS, self._attention_norm), change(NORMS, self._mlp_norm)
        changed._gated = change(NORMS, self._gated)
        return changed

    def run(self, x: _Floats, added: _Floats, cos: _Floats, sin: _Floats, layer: PreallocatedLayer) -> _Floats:
        """Add `added` and attention to the residual x (hidden,), in place. Returns the MLP output.

        added: the previous block's MLP output, empty for the first block.
        """
        qkv = self._qkv(self._attention_norm(x, added))
        attended = self._out(self._attend(qkv, cos, sin, layer))
        return self._down(self._gated(self._gate_up(self._mlp_norm(x, attended))))


class _Attention:
    """The attention of one block between its products."""

    def __init__(self, attention: Any) -> None:
        self._heads = attention.q_proj.out_features // attention.head_dim
        self._kv_heads = attention.k_proj.out_features // attention.head_dim
        self._scale = float(attention.scaling)

    def attend(self, qkv: _Floats, cos: _Floats, sin: _Floats, layer: PreallocatedLayer) -> _Floats:
        """Rotate the token's queries and keys, cache keys and values, and attend: (1, heads * d)."""
        heads, kv_heads = self._heads, self._kv_heads
        rows = qkv.reshape(heads + 2 * kv_heads, -1)
        rotate(rows[: heads + kv_heads], cos, sin)
        layer.append(rows[heads : heads + kv_heads], rows[heads + kv_heads :])
        return layer.attend(rows[:heads], self._scale)
