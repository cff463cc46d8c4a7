"""Attention of one token with its expected result, for the emulator and the GPU."""

import torch
from torch import Tensor

from abq_core.inference.decode_ops import quantize_kv
from kernels.cuda import decode_attention
from kernels.cuda.decode_attention import AttentionInput
from kernels.cuda.inputs import Normed

NEAR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def normed(m: int, k: int, dtype: torch.dtype, with_added: bool = True, on: str = "cpu") -> Normed:
    """A `Normed` input whose rows are strided."""
    x = values(m, k + 4, dtype=dtype).to(on)[:, :k]
    added = values(m, k, dtype=dtype, seed=1).to(on) if with_added else None
    return Normed(x, added, values(k, dtype=dtype, seed=2).to(on), 1e-5)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    near, size = NEAR[found.dtype], float(expected.float().abs().max())
    torch.testing.assert_close(found.float(), expected.float(), rtol=near, atol=near * size)


def heads_of(
    heads: int, kv_heads: int, d: int, capacity: int, position: int, window: int | None, kv_bits: int | None,
    dtype: torch.dtype, on: str = "cpu",
) -> AttentionInput:  # fmt: skip
    """A token at `position` of a cache that is filled up to there and NaN from there on."""
    cached_keys, cached_values = (values(kv_heads, capacity, d, dtype=dtype, seed=seed) for seed in (3, 4))
    cached_keys[:, position:] = cached_values[:, position:] = torch.nan
    qkv = 2 * values(heads + 2 * kv_heads, d, dtype=dtype, seed=5)
    return AttentionInput(qkv.to(on), cached_keys.to(on), cached_values.to(on), window, kv_bits, d**-0.5)


def attention_by_torch(case: AttentionInput, cos: Tensor, sin: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
    """The reference in float32: (attention output, new keys, new values), fake-quantized as the modules do."""
    heads, kv_heads, qkv = case.heads, case.kv_heads, case.qkv
    rotated = qkv[: heads + kv_heads] * cos + qkv[: heads + kv_heads].roll(qkv.shape[1] // 2, -1) * sin
    new = [quantize_kv(part.float(), case.kv_bits) for part in (rotated[heads:], qkv[heads + kv_heads :])]
    first = 0 if case.window is None else max(0, position + 1 - case.window)
    all_keys, all_values = (
        torch.cat([old[:, first:position].float(), part[:, None]], 1)
        for old, part in zip((case.keys, case.values), new, strict=True)
    )
    queries = rotated[:heads].float().view(kv_heads, -1, qkv.shape[1])
    scores = torch.softmax(queries @ all_keys.transpose(1, 2) * case.scale, -1)
    return (scores @ all_values).view(heads, -1), new[0], new[1]


def attend(case: AttentionInput, position: int) -> None:
    """Run a case on the device of its tensors and compare the output and the cache with the reference."""
    d, dtype = case.qkv.shape[1], case.qkv.dtype
    cos, sin = (values(d, dtype=dtype, seed=seed).to(case.qkv.device) for seed in (6, 7))
    expected, key, value = attention_by_torch(case, cos, sin, position)
    before = case.keys.clone()
    found = decode_attention.attention(
        case, cos, sin, torch.tensor([position], device=case.qkv.device), case.keys.shape[1]
    )
    assert_near(found, expected.to(dtype))
    assert_near(case.keys[:, position], key.to(dtype))
    assert_near(case.values[:, position], value.to(dtype))
    before[:, position] = case.keys[:, position]
    assert torch.equal(case.keys.nan_to_num(9), before.nan_to_num(9))
