"""One token's attention, and what it has to be: for the emulator's tests and for the GPU's."""

import torch
from torch import Tensor

from abq_core.inference.decode_ops import rounded
from kernels.cuda import decode_attention
from kernels.cuda.decode_attention import AttentionInput
from kernels.cuda.inputs import Normed

NEAR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def normed(m: int, k: int, dtype: torch.dtype, with_added: bool = True, on: str = "cpu") -> Normed:
    """Rows of x are apart."""
    x = values(m, k + 4, dtype=dtype).to(on)[:, :k]
    added = values(m, k, dtype=dtype, seed=1).to(on) if with_added else None
    return Normed(x, added, values(k, dtype=dtype, seed=2).to(on), 1e-5)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    near, size = NEAR[found.dtype], float(expected.float().abs().max())
    torch.testing.assert_close(found.float(), expected.float(), rtol=near, atol=near * size)


def heads_of(
    heads: int, kv_heads: int, d: int, capacity: int, position: int, window: int | None, bits: int | None,
    dtype: torch.dtype, on: str = "cpu",
) -> AttentionInput:  # fmt: skip
    """A token at `position` of a cache that is NaN from there on."""
    keys, kept = (values(kv_heads, capacity, d, dtype=dtype, seed=seed) for seed in (3, 4))
    keys[:, position:] = kept[:, position:] = torch.nan
    parts = 2 * values(heads + 2 * kv_heads, d, dtype=dtype, seed=5)
    return AttentionInput(parts.to(on), keys.to(on), kept.to(on), window, bits, d**-0.5)


def attention_by_torch(case: AttentionInput, cos: Tensor, sin: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, and the new keys and values, in float32. What is rounded to bits is first rounded as modules do."""
    heads, kv_heads, parts = case.heads, case.kv_heads, case.parts
    turned = parts[: heads + kv_heads] * cos + parts[: heads + kv_heads].roll(parts.shape[1] // 2, -1) * sin
    new = [rounded(part.float(), case.bits) for part in (turned[heads:], parts[heads + kv_heads :])]
    first = 0 if case.window is None else max(0, position + 1 - case.window)
    keys, kept = (
        torch.cat([old[:, first:position].float(), part[:, None]], 1)
        for old, part in zip((case.keys, case.values), new, strict=True)
    )
    query = turned[:heads].float().view(kv_heads, -1, parts.shape[1])
    scores = torch.softmax(query @ keys.transpose(1, 2) * case.scale, -1)
    return (scores @ kept).view(heads, -1), new[0], new[1]


def attend(case: AttentionInput, position: int) -> None:
    """Run a case where its tensors are, and compare it."""
    d, dtype = case.parts.shape[1], case.parts.dtype
    cos, sin = (values(d, dtype=dtype, seed=seed).to(case.parts.device) for seed in (6, 7))
    expected, key, value = attention_by_torch(case, cos, sin, position)
    before = case.keys.clone()
    found = decode_attention.attention(
        case, cos, sin, torch.tensor([position], device=case.parts.device), case.keys.shape[1]
    )
    assert_near(found, expected.to(dtype))
    assert_near(case.keys[:, position], key.to(dtype))
    assert_near(case.values[:, position], value.to(dtype))
    before[:, position] = case.keys[:, position]
    assert torch.equal(case.keys.nan_to_num(9), before.nan_to_num(9))
