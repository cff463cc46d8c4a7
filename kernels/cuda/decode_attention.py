"""One token's attention on a GPU, between its products: rotated, kept in the cache, attended to.

Nothing waits and nothing follows the position in its shape, so that a CUDA graph can hold it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from kernels.cuda import driver
from kernels.cuda.engine import materialize, passes_self_test
from kernels.cuda.inputs import Gated, Normed, type_name
from kernels.cuda.tiles import KEEP_THREADS, THREADS, attend_name, keep_name

if TYPE_CHECKING:
    from torch import Tensor

SLICE = 128  # positions that a block attends to
_MOST_VALUES = 256
_TOLERANCE = 2e-3
_pointer, _int, _long = ctypes.c_uint64, ctypes.c_int32, ctypes.c_int64


class KeepArguments(ctypes.Structure):
    """`KeepArguments` of arguments.cuh."""

    _fields_ = (
        *((name, _pointer) for name in ("parts", "cos", "sin", "keys", "values", "position", "counters")),
        ("capacity", _long),
        *((name, _int) for name in ("heads", "kv_heads", "d", "bits")),
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
    """One token's queries, keys and values, (heads + 2 kv_heads, d), and the cache that receives the last two.

    keys, values: (kv_heads, capacity, d).  window: positions that a token sees, itself included; None for all.
    bits: that keys and values are rounded to as they are kept, per head; None for not.  All are of one dtype.
    """

    parts: Tensor
    keys: Tensor
    values: Tensor
    window: int | None
    bits: int | None
    scale: float

    @property
    def kv_heads(self) -> int:
        return len(self.keys)

    @property
    def heads(self) -> int:
        """AttentionInput of the queries."""
        return len(self.parts) - 2 * self.kv_heads


def fits(d: int) -> bool:
    """Whether the kernels take heads of d values."""
    return d % 4 == 0 and d <= _MOST_VALUES


def attention(token: AttentionInput, cos: Tensor, sin: Tensor, position: Tensor, bucket: int) -> Tensor:
    """Rotate queries and keys, keep keys and values at `position` (1,) int64, attend: (heads, d).

    cos, sin: (d,), the first half of sin negative.  position: below `bucket`, which is at most the capacity and says
    how many blocks share the work.  The queries in `token.parts` are replaced. d has to fit (`fits`).
    """
    import torch

    on, parts, keys = driver.device_of(token.parts), token.parts, token.keys
    heads, kv_heads, d = token.heads, token.kv_heads, parts.shape[1]
    for tensor in (parts, keys, token.values, cos, sin):
        assert tensor.is_contiguous() and tensor.dtype == parts.dtype
    name = type_name(parts.dtype)
    counters = torch.empty(heads, dtype=torch.int32, device=parts.device)
    pointers = {"keys": keys.data_ptr(), "values": token.values.data_ptr(), "position": position.data_ptr()}
    shape = {"capacity": keys.shape[1], "heads": heads, "kv_heads": kv_heads, "d": d}
    keep = KeepArguments(parts=parts.data_ptr(), cos=cos.data_ptr(), sin=sin.data_ptr(), **pointers, **shape)
    keep.counters, keep.bits = counters.data_ptr(), token.bits or 0
    on.launch(keep_name(name), (len(parts), 1, 1), KEEP_THREADS, 4 * d, keep)

    splits = -(-bucket // SLICE)
    words = (heads, splits, d + 2)
    partial = torch.empty(words, dtype=torch.float32, device=parts.device) if splits > 1 else None
    out = torch.empty((heads, d), dtype=parts.dtype, device=parts.device)
    attend = AttendArguments(query=parts.data_ptr(), out=out.data_ptr(), **pointers, **shape)
    attend.partial, attend.counters = 0 if partial is None else partial.data_ptr(), counters.data_ptr()
    attend.window, attend.slice, attend.scale = token.window or 0, SLICE, token.scale
    on.launch(attend_name(name), (heads, 1, splits), THREADS, 16 + THREADS // 32 * (d + 2) * 4, attend)
    return out


@cache
def works(index: int) -> bool:
    """Whether the kernels of one token passed their self-test on a device: what torch computes, within rounding."""
    return passes_self_test(
        _self_test, index, "One of the GPU kernels between the products", "Torch's take their place"
    )


def _self_test(place: str) -> bool:
    import torch

    random = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(place)

    x, added, norm, gate_up = values(1, 300), values(1, 300), values(300), values(1, 600)
    summed = x + added
    expected = summed * torch.rsqrt((summed**2).mean() + 1e-6) * norm
    gate, up = gate_up.chunk(2, dim=-1)
    close = [
        _is_close(materialize(Normed(x, added, norm, 1e-6)), expected),
        _is_close(x, summed),
        _is_close(materialize(Gated(gate_up)), gate * torch.sigmoid(gate) * up),
    ]
    heads, kv_heads, d, position = 4, 2, 64, 2 * SLICE + 9
    parts, keys, kept = values(heads + 2 * kv_heads, d), values(kv_heads, 3 * SLICE, d), values(kv_heads, 3 * SLICE, d)
    cos, sin = values(d), values(d)
    turned = parts[: heads + kv_heads] * cos + parts[: heads + kv_heads].roll(d // 2, -1) * sin
    all_keys, all_values = keys.clone(), kept.clone()
    all_keys[:, position], all_values[:, position] = turned[heads:], parts[heads + kv_heads :]
    seen = slice(position + 1 - 200, position + 1)
    groups = turned[:heads].view(kv_heads, -1, d)
    scores = groups @ all_keys[:, seen].transpose(1, 2) * 0.1
    expected = (torch.softmax(scores, -1) @ all_values[:, seen]).view(heads, d)
    at = torch.tensor([position], device=place)
    found = attention(AttentionInput(parts, keys, kept, 200, None, 0.1), cos, sin, at, 3 * SLICE)
    return all([*close, _is_close(found, expected), _is_close(keys, all_keys), _is_close(kept, all_values)])


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs() <= _TOLERANCE * expected.abs().max()).all())
