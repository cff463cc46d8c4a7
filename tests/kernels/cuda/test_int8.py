"""The kernels around torch's INT8 product, on the emulator: bit-identical to `Int8Linear`."""

import shutil
from pathlib import Path

import pytest
import torch
from attention_cases import normed, values
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu, EmulatorError

from abq_core.inference.int8_linear import Int8Linear
from kernels.cuda import engine, int8
from kernels.cuda.compile import SOURCES
from kernels.cuda.engine import GpuPathWarning
from kernels.cuda.inputs import Gated, Normed
from kernels.formats.planes import ShapeError

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def weight(n: int, k: int, dtype: torch.dtype, bias: bool = True) -> Int8Linear:
    linear = torch.nn.Linear(k, n, bias)
    with torch.no_grad():
        linear.weight.copy_(values(n, k, seed=8))
        if bias:
            linear.bias.copy_(values(n, seed=9))
    rounded = Int8Linear.round(linear)
    if rounded.bias is not None:
        rounded.bias.data = rounded.bias.data.to(dtype)  # as `to_device` does: buffers keep their dtype
    return rounded


def product(x: torch.Tensor | Gated | Normed, of: Int8Linear) -> torch.Tensor:
    return int8.linear(x, of.codes, of.scale, of.bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 8, 8), (3, 40, 1304), (33, 264, 64)])
def test_results_equal_torchs(m: int, n: int, k: int, bias: bool, dtype: torch.dtype, gpu: EmulatedGpu) -> None:
    of, x = weight(n, k, dtype, bias), values(m, k + 4, dtype=dtype)[:, :k]
    x[-1] = 0
    assert torch.equal(product(x, of), of(x))
    assert gpu.launched == [f"round_plain_{str(dtype)[6:]}", f"scale_sums_{str(dtype)[6:]}"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["gated", "normed"])
def test_a_norm_or_a_gate_is_fused_into_the_quantization(kind: str, dtype: torch.dtype, gpu: EmulatedGpu) -> None:
    def made() -> Gated | Normed:
        return normed(2, 304, dtype) if kind == "normed" else Gated(values(2, 608, dtype=dtype))

    of = weight(16, 304, dtype)
    assert torch.equal(product(made(), of), of(engine.materialize(made())))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_is_not_finite_gives_nan_for_itself_only(wrong: float, gpu: EmulatedGpu) -> None:
    of, x = weight(8, 64, torch.float32), values(3, 64)
    expected = of(x)
    x[1, 37] = wrong
    found = product(x, of)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_shapes_that_cublaslt_does_not_support_are_refused(gpu: EmulatedGpu) -> None:
    of = weight(12, 64, torch.float32)
    assert not int8.fits(of.codes)
    with pytest.raises(ShapeError, match=r"INT8 weight \(12, 64\)"):
        product(values(1, 64), of)
    with pytest.raises(ShapeError, match=r"\(1, 56\) do not fit"):
        product(values(1, 56), weight(16, 64, torch.float32))


MUTATIONS = {
    "the peak of the first warp only": ("if (lane < warps) peak", "if (lane < 1) peak"),
    "negative peaks ignored": ("float_as_bits(v[c]) & 0x7fffffffu", "float_as_bits(v[c] > 0.0f ? v[c] : 0.0f)"),
    "the token's scale left out": ("multiply(sum, of_token)", "sum"),
    "sign bits of negative codes not masked": ("(static_cast<u32>(code) & 0xffu)", "static_cast<u32>(code)"),
    "no barrier before the warps' peaks": ("    sync_block();\n    if (lane", "    if (lane"),
}


def mutate(gpu: EmulatedGpu, mutation: str, folder: Path) -> None:
    before, after = MUTATIONS[mutation]
    for source in SOURCES.glob("*.cu*"):
        shutil.copy(source, folder)
    text = (folder / "int8.cu").read_text()
    assert text.count(before) == 1
    (folder / "int8.cu").write_text(text.replace(before, after))
    gpu.sources = folder


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_kernel_is_detected(mutation: str, gpu: EmulatedGpu, tmp_path: Path) -> None:
    mutate(gpu, mutation, tmp_path)
    of, x = weight(40, 1304, torch.float32), values(3, 1304)
    x[0, 700] = -9
    with pytest.raises((AssertionError, EmulatorError)):
        assert torch.equal(product(x, of), of(x))


def test_a_kernel_that_fails_its_self_test_is_replaced_by_torch(gpu: EmulatedGpu, tmp_path: Path) -> None:
    assert int8.works(0)
    int8.works.cache_clear()
    mutate(gpu, "the token's scale left out", tmp_path)
    with pytest.warns(GpuPathWarning, match="INT8 is slower than it could be"):
        assert not int8.works(0)
