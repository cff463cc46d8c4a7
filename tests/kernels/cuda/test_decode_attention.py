"""The kernels of a decode step, on the emulator: norm, gate and attention equal torch's."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attention_cases import assert_near, attend, heads_of, normed, values
from cuda_cases import POISON, Case
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu, EmulatorError
from torch import Tensor

from kernels.cuda import decode_attention, engine, launch
from kernels.cuda.compile import SOURCES
from kernels.cuda.decode_attention import SLICE
from kernels.cuda.device_tensors import QuantizedActivations, upload
from kernels.cuda.engine import GpuPathWarning
from kernels.cuda.inputs import Gated, Normed
from kernels.cuda.tiles import BINARY, BYTES
from kernels.formats.planes import ShapeError

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def by_torch(x: Gated | Normed) -> Tensor:
    """The reference, computed as transformers' modules do. Does not modify x."""
    if isinstance(x, Gated):
        gate, up = x.gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up
    summed = x.x if x.added is None else x.x + x.added
    wide = summed.float()
    return x.norm * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + x.epsilon)).to(summed.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), [(1, 1), (1, 300), (3, 301), (2, 4100)])
def test_a_norm_is_materialized_with_its_residual_sum(m: int, k: int, dtype: torch.dtype, gpu: EmulatedGpu) -> None:
    for with_added in (True, False):
        x = normed(m, k, dtype, with_added)
        expected, summed = by_torch(x), x.x if x.added is None else x.x + x.added
        assert_near(engine.materialize(x), expected)
        assert torch.equal(x.x, summed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k"), [(1, 1), (3, 301), (2, 5000)])
def test_a_gate_is_materialized(m: int, k: int, dtype: torch.dtype, gpu: EmulatedGpu) -> None:
    x = Gated(4 * values(m, 2 * k, dtype=dtype))
    x.gate_up[0, 0] = -200  # exp overflows to infinity
    assert_near(engine.materialize(x), by_torch(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["gated", "normed"])
@pytest.mark.parametrize(("family", "act_bits", "k"), [(BINARY, 8, 700), (BINARY, 3, 256), (BYTES, 4, 301)])
def test_quantizing_a_fused_input_equals_quantizing_its_values(
    kind: str, family: str, act_bits: int, k: int, dtype: torch.dtype, gpu: EmulatedGpu
) -> None:
    def made() -> Gated | Normed:
        return normed(3, k, dtype) if kind == "normed" else Gated(values(3, 2 * k, dtype=dtype))

    weight = upload(Case(2, act_bits, 3, 16, k).weight(), "cpu")
    found = []
    for x in (made(), engine.materialize(made())):
        acts = QuantizedActivations.empty(3, act_bits, family, weight, 1)
        for tensor in (acts.codes, acts.zero, acts.sums):
            tensor.fill_(POISON)
        launch.quantize(gpu, x, weight, acts)
        found.append((acts.codes, acts.scale, acts.zero, acts.sums))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("act_bits", [8, 16])
def test_a_product_accepts_fused_inputs(act_bits: int, gpu: EmulatedGpu) -> None:
    weight = upload(Case(2, act_bits, 1, 32, 128).weight(), "cpu")
    for make in (lambda: normed(1, 128, torch.float16), lambda: Gated(values(1, 256, dtype=torch.float16))):
        expected = engine.linear(engine.materialize(make()), weight, act_bits)
        assert torch.equal(engine.linear(make(), weight, act_bits), expected)


def test_inputs_of_wrong_shape_or_dtype_are_refused(gpu: EmulatedGpu) -> None:
    fits = normed(1, 64, torch.float16)
    wrong = [
        replace(fits, norm=values(63, dtype=torch.float16)),
        replace(fits, added=values(1, 64)),
        replace(fits, x=fits.x.T),
        Gated(values(1, 63, dtype=torch.float16)),
    ]
    for x in wrong:
        with pytest.raises(ShapeError):
            engine.materialize(x)
    with pytest.raises(ShapeError, match=r"do not fit a weight \(16, 256\)"):
        engine.linear(fits, upload(Case(2, 8).weight(), "cpu"), 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(1, 1, 4), (4, 2, 64), (3, 3, 96), (2, 1, 128), (2, 2, 256)])
def test_attention(heads: int, kv_heads: int, d: int, dtype: torch.dtype, gpu: EmulatedGpu) -> None:
    for position, capacity in ((0, 3), (40, 41), (SLICE + 5, 2 * SLICE + 8)):
        gpu.backwards = position == 40
        attend(heads_of(heads, kv_heads, d, capacity, position, None, None, dtype), position)


@pytest.mark.parametrize("window", [1, 30, SLICE, SLICE + 1, 5 * SLICE])
@pytest.mark.parametrize("position", [SLICE - 1, SLICE, 3 * SLICE - 1])
def test_a_sliding_window_hides_older_positions(window: int, position: int, gpu: EmulatedGpu) -> None:
    attend(heads_of(2, 1, 16, 3 * SLICE, position, window, None, torch.float16), position)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_cached_keys_and_values_are_fake_quantized(bits: int, dtype: torch.dtype, gpu: EmulatedGpu) -> None:
    attend(heads_of(4, 2, 32, 20, 7, None, bits, dtype), 7)
    attend(heads_of(32, 32, 128, 20, 7, None, bits, dtype), 7)


def test_the_grid_depends_on_the_bucket_and_not_on_the_position(gpu: EmulatedGpu) -> None:
    for position in (0, SLICE, 2 * SLICE):
        case = heads_of(2, 1, 16, 3 * SLICE, position, None, None, torch.float32)
        attend(case, position)


MUTATIONS = {
    "window starts one position late": ("decode_step.cu", "end - a.window > first", "end - a.window > first + 1"),
    "one position too many": ("decode_step.cu", "(a.position), 0)) + 1;", "(a.position), 0)) + 2;"),
    "no barrier before the warps' sums are read": (
        "decode_step.cu",
        "sync_block();\n    const Global<float> partial",
        "const Global<float> partial",
    ),
    "earlier sums not rescaled when the maximum grows": ("decode_step.cu", "weight *= shrink;", ""),
    "rotary halves not swapped": ("decode_step.cu", "side ? first : second", "side ? second : first"),
    "wrong head index for values": ("decode_step.cu", "(is_value ? a.kv_heads : 0)", "0"),
    "counters not cleared": ("decode_step.cu", "store(Global<u32>(a.counters), i, u32(0))", "(void)i"),
    "keys of another head": ("decode_step.cu", "head / (a.heads / a.kv_heads)", "head % a.kv_heads"),
}


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` returns memory that no kernel may rely on; by chance it is often zero."""
    empty = torch.empty

    def poisoned(*shape: object, **options: object) -> Tensor:
        memory = empty(*shape, **options)
        return memory.fill_(float("nan") if memory.is_floating_point() else 5)

    monkeypatch.setattr(torch, "empty", poisoned)


def test_uninitialized_memory_is_not_read(gpu: EmulatedGpu, poisoned_memory: None) -> None:
    attend(heads_of(4, 2, 16, 3 * SLICE, 2 * SLICE, SLICE, None, torch.float32), 2 * SLICE)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_kernel_is_detected(mutation: str, gpu: EmulatedGpu, tmp_path: Path, poisoned_memory: None) -> None:
    file, before, after = MUTATIONS[mutation]
    for source in SOURCES.glob("*.cu*"):
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert text.count(before) == 1
    (tmp_path / file).write_text(text.replace(before, after))
    gpu.sources = tmp_path
    with pytest.raises((AssertionError, EmulatorError)):
        attend(heads_of(4, 2, 16, 3 * SLICE, 2 * SLICE, SLICE, None, torch.float32), 2 * SLICE)


def test_a_failed_self_test_warns(gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_attention.works.cache_clear()
    assert decode_attention.works(0)
    decode_attention.works.cache_clear()
    monkeypatch.setattr(decode_attention, "_is_close", lambda found, expected: False)
    with pytest.warns(GpuPathWarning, match="decode step .* returned wrong results on Emulated GPU"):
        assert not decode_attention.works(0)
    decode_attention.works.cache_clear()


def test_supported_head_sizes() -> None:
    assert [d for d in (2, 4, 6, 96, 128, 256, 260) if decode_attention.fits(d)] == [4, 96, 128, 256]
