"""Quantized models.

From a run's blocks or rounded to nearest, simulated or packed; their size and their path.
"""

from pathlib import Path

import pytest
import torch
from decoder_cases import PROMPT, load_families
from tiny_runs import calibrated

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.quantized_block import Engine, MissingBlockError
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import linear_path, quantized_model, rounded_model, weight_bytes
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear, linears_of

W4A8 = Precision.parse("W4A8")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> LoadedModel:
    return load_families(("llama",), tmp_path_factory.mktemp("models"), tiny_llama)["llama"]


@pytest.fixture(scope="module")
def store(llama: LoadedModel) -> MemoryStore:
    return calibrated(llama, "W4A8")


def hidden(model: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.hidden(torch.tensor([PROMPT]))


@pytest.mark.parametrize(("engine", "kind"), [("simulated", QuantLinear), ("packed", PackedLinear)])
def test_a_run_of_rtn_equals_rounding_to_nearest(
    engine: Engine, kind: type[torch.nn.Module], llama: LoadedModel, store: MemoryStore
) -> None:
    before = hidden(llama)
    model = quantized_model(llama, W4A8, store, engine)
    replaced = [module for module in model.model.modules() if isinstance(module, kind)]
    assert len(replaced) == 2 * 7 and model.precision == W4A8
    assert torch.equal(hidden(model), hidden(rounded_model(llama, W4A8, engine)))
    assert not torch.equal(hidden(model), before)
    assert torch.equal(hidden(llama), before)  # the base is not modified


def test_the_packed_engine_computes_what_the_simulation_says(llama: LoadedModel) -> None:
    simulated, packed = (rounded_model(llama, W4A8, engine) for engine in ("simulated", "packed"))
    expected = hidden(simulated)
    torch.testing.assert_close(hidden(packed), expected, rtol=1e-2, atol=2e-2 * float(expected.abs().max()))


def test_a_block_that_is_missing_is_named(llama: LoadedModel, store: MemoryStore) -> None:
    part = MemoryStore()
    part.blocks[0] = store.blocks[0]
    with pytest.raises(MissingBlockError, match="Block 1 of this run is missing or damaged"):
        quantized_model(llama, W4A8, part, "simulated")


def test_weight_bytes(llama: LoadedModel) -> None:
    linears = [linear for block in blocks_of(llama.model) for linear in linears_of(block).values()]
    weights = sum(linear.weight.numel() for linear in linears)
    assert weight_bytes(llama) == weight_bytes(to_device(llama, "cpu", torch.bfloat16)) == 2 * weights
    for engine in ("simulated", "packed"):
        sizes = [weight_bytes(rounded_model(llama, Precision.parse(p), engine)) for p in ("W2A8", "W4A8", "W8A8")]
        assert sizes == sorted(sizes) and sizes[0] >= 2 * weights // 8 and sizes[2] >= weights


def test_the_path_of_the_linears(llama: LoadedModel) -> None:
    assert linear_path(llama) == "torch F.linear fp32"
    assert linear_path(to_device(llama, "cpu", torch.float16)) == "torch F.linear fp16"
    assert linear_path(rounded_model(llama, W4A8, "simulated")) == "torch F.linear fp32, activations rounded"
    assert linear_path(to_int8(llama)).startswith("torch._int_mm")
    assert linear_path(rounded_model(llama, W4A8, "packed")).startswith("abq ")
