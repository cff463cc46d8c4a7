"""Attention of one token on a GPU: rotary embedding, KV cache update, attention.

Nothing synchronizes, and no launch depends on the position, so a CUDA graph can hold it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from kernels.cuda import driver
from kernels.cuda.engine import materialize, passes_self_test
from kernels.cuda.inputs import Gated, Normed, type_name
from kernels.cuda.tiles import ROTATE_THREADS, THREADS, attend_name, rotate_name

if TYPE_CHECKING:
    from torch import Tensor

SLICE = 128  # cached positions per block of the attention kernel
_MOST_VALUES = 256
_TOLERANCE = 2e-3
_pointer, _int, _long = ctypes.c_uint64, ctypes.c_int32, ctypes.c_int64


class RotateArguments(ctypes.Structure):
    """`RotateArguments` of arguments.cuh."""

    _fields_ = (
        *((name, _pointer) for name in ("qkv", "cos", "sin", "keys", "values", "position", "counters")),
        ("capacity", _long),
        *((name, _int) for name in ("heads", "kv_heads", "d", "kv_bits")),
    )


class AttendArguments(ctypes.Structure):
    """`AttendArguments` of arguments.cuh."""

    _fields_ = (
        *((name, _pointer) for name in ("query", "keys", "values", "position", "partial", "counters", "out")),
        ("capacity", _long),
        *((name, _int) for name in ("heads", "kv_heads", "d", "window", "slice")),
        ("scale", ctypes.c_float),
    )


@dataclass(frozen=True, eq=False)
class AttentionInput:
    """One token's queries, keys and values, and the KV cache of its layer.

    All tensors have one dtype.
    qkv: (heads + 2 kv_heads, d), not yet rotated.  keys, values: the cache, (kv_heads, capacity, d).
    window: size of the sliding window, the token itself included; None for full attention.
    kv_bits: keys and values are fake-quantized per head to this many bits before they are cached; None for no.
    scale: factor on the scores.
    """

    qkv: Tensor
    keys: Tensor
    values: Tensor
    window: int | None
    kv_bits: int | None
    scale: float

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return len(self.keys)

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return len(self.qkv) - 2 * self.kv_heads


def fits(d: int) -> bool:
    """Whether the kernels support heads of d values."""
    return d % 4 == 0 and d <= _MOST_VALUES


def attention(token: AttentionInput, cos: Tensor, sin: Tensor, position: Tensor, bucket: int) -> Tensor:
    """Rotate queries and keys, cache keys and values, and attend. Returns (heads, d).

    cos, sin: (d,), the first half of sin negated.  position: less than `bucket`, which is at most the cache's capacity
    and sets the number of blocks.  Overwrites the queries in `token.qkv`.  d must satisfy `fits`.
    Raises CudaError, CompileError.
    """
    import torch

    on, qkv, keys = driver.device_of(token.qkv), token.qkv, token.keys
    heads, kv_heads, d = token.heads, token.kv_heads, qkv.shape[1]
    for tensor in (qkv, keys, token.values, cos, sin):
        assert tensor.is_contiguous() and tensor.dtype == qkv.dtype
    name = type_name(qkv.dtype)
    counters = torch.empty(heads, dtype=torch.int32, device=qkv.device)
    pointers = {"keys": keys.data_ptr(), "values": token.values.data_ptr(), "position": position.data_ptr()}
    shape = {"capacity": keys.shape[1], "heads": heads, "kv_heads": kv_heads, "d": d}
    rotate = RotateArguments(qkv=qkv.data_ptr(), cos=cos.data_ptr(), sin=sin.data_ptr(), **pointers, **shape)
    rotate.counters, rotate.kv_bits = counters.data_ptr(), token.kv_bits or 0
    on.launch(rotate_name(name), (len(qkv), 1, 1), ROTATE_THREADS, 4 * d, rotate)

    splits = -(-bucket // SLICE)
    words = (heads, splits, d + 2)
    partial = torch.empty(words, dtype=torch.float32, device=qkv.device) if splits > 1 else None
    out = torch.empty((heads, d), dtype=qkv.dtype, device=qkv.device)
    attend = AttendArguments(query=qkv.data_ptr(), out=out.data_ptr(), **pointers, **shape)
    attend.partial, attend.counters = 0 if partial is None else partial.data_ptr(), counters.data_ptr()
    attend.window, attend.slice, attend.scale = token.window or 0, SLICE, token.scale
    on.launch(attend_name(name), (heads, 1, splits), THREADS, 16 + THREADS // 32 * (d + 2) * 4, attend)
    return out


@cache
def works(index: int) -> bool:
    """Whether the kernels of decode_step.cu passed their self-test on GPU `index`.

    They must return torch's results within rounding.
    """
    return passes_self_test(
        _self_test, index, "A GPU kernel of the decode step (norm, gate or attention)", "Torch's operations replace it"
    )


def _self_test(place: str) -> bool:
    return _norm_and_gate_are_right(place) and _attention_is_right(place)


def _norm_and_gate_are_right(place: str) -> bool:
    import torch

    values = _Random(place)
    x, added, norm, gate_up = values(1, 300), values(1, 300), values(300), values(1, 600)
    summed = x + added
    expected = summed * torch.rsqrt((summed**2).mean() + 1e-6) * norm
    gate, up = gate_up.chunk(2, dim=-1)
    return (
        _is_close(materialize(Normed(x, added, norm, 1e-6)), expected)
        and _is_close(x, summed)
        and _is_close(materialize(Gated(gate_up)), gate * torch.sigmoid(gate) * up)
    )


def _attention_is_right(place: str) -> bool:
    import torch

    values = _Random(place)
    heads, kv_heads, d, position, window, scale = 4, 2, 64, 2 * SLICE + 9, 200, 0.1
    qkv = values(heads + 2 * kv_heads, d)
    cached_keys, cached_values = values(kv_heads, 3 * SLICE, d), values(kv_heads, 3 * SLICE, d)
    cos, sin = values(d), values(d)
    rotated = qkv[: heads + kv_heads] * cos + qkv[: heads + kv_heads].roll(d // 2, -1) * sin
    all_keys, all_values = cached_keys.clone(), cached_values.clone()
    all_keys[:, position], all_values[:, position] = rotated[heads:], qkv[heads + kv_heads :]
    visible = slice(position + 1 - window, position + 1)
    queries = rotated[:heads].view(kv_heads, -1, d)
    scores = queries @ all_keys[:, visible].transpose(1, 2) * scale
    expected = (torch.softmax(scores, -1) @ all_values[:, visible]).view(heads, d)
    token = AttentionInput(qkv, cached_keys, cached_values, window, None, scale)
    found = attention(token, cos, sin, torch.tensor([position], device=place), 3 * SLICE)
    pairs = ((found, expected), (cached_keys, all_keys), (cached_values, all_values))
    return all(_is_close(*pair) for pair in pairs)


class _Random:
    """Normally distributed float32 tensors on a device, the same on every run."""

    def __init__(self, place: str) -> None:
        import torch

        self._place, self._generator = place, torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        import torch

        return torch.randn(shape, generator=self._generator).to(self._place)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs() <= _TOLERANCE * expected.abs().max()).all())
