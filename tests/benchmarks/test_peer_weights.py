"""A peer's weights lie on a grid of 2^p levels and are evaluated like ours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark_cases import CONDITIONS
from peer_weights import PEER_PYTHON, PEERS, PeerError, integers, is_peer, run_peer, stored_blocks, supports
from safetensors import safe_open

from abq_core.inference.runtime import quantized_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import fake_quant_activation, quantize_weight

EXAMPLE = Path(__file__).parent / "peer_weights.safetensors"
OPTIONS = {"steps": 2, "seed": 0, "symmetric": False}


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.mark.parametrize("text", ["W1A8", "W2A8", "W3A8", "W4A4", "W8A8", "W3A8g32"])
def test_the_integers_of_our_own_rounding_are_recovered(text: str) -> None:
    precision = Precision.parse(text)
    weight = torch.randn(40, 80, generator=torch.Generator().manual_seed(0))
    weight[0] = 0.0
    weight[1] = weight[1].abs() + 0.5  # all on one side of zero
    weight[2, 1:] = 0.0  # two of the levels
    expected = quantize_weight(weight, precision).dequantize()
    found = integers(expected, precision)
    torch.testing.assert_close(found.dequantize(), expected, rtol=1e-5, atol=1e-6)
    assert found.codes.min() >= 0 and found.codes.max() < precision.levels
    assert found.zero.min() >= 0 and found.zero.max() < precision.levels


@pytest.mark.parametrize("spoiled", [0.3, 7.0])
def test_one_level_too_many_is_refused(spoiled: float) -> None:
    precision = Precision.parse("W2A8")
    weight = quantize_weight(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)), precision).dequantize()
    step = weight[1].unique().diff().min()
    weight[1, 5] = spoiled * step  # between two levels, or beyond the last
    with pytest.raises(PeerError, match="no grid of 4 levels"):
        integers(weight, precision)


def test_weights_that_were_not_rounded_are_refused() -> None:
    with pytest.raises(PeerError, match="no grid of 16 levels"):
        integers(torch.randn(2, 64), Precision.parse("W4A4"))


def test_the_model_uses_the_peers_weights_and_the_activation_bits_of_the_row(base: LoadedModel) -> None:
    precision = Precision.parse("W2A8")
    names = {id(p): n for n, p in base.model.named_parameters()}
    linears = {names[id(m.weight)]: m for m in linears_of(base.model.model.layers).values()}
    weights = {n: quantize_weight(m.weight + 0.01, precision).dequantize() for n, m in linears.items()}
    model = quantized_model(base, precision, stored_blocks(base, precision, weights), "simulated").model
    for name, weight in weights.items():
        torch.testing.assert_close(model.get_parameter(name), weight, rtol=1e-5, atol=1e-6)
    linear, x = model.model.layers[1].mlp.down_proj, torch.randn(3, 96)
    expected = fake_quant_activation(x, 8) @ weights["model.layers.1.mlp.down_proj.weight"].T
    torch.testing.assert_close(linear(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.model.norm.weight, base.model.model.norm.weight)


def test_a_linear_missing_from_a_peers_output_is_named(base: LoadedModel) -> None:
    with pytest.raises(PeerError, match=r"nothing for model\.layers\.0\.self_attn\.q_proj\.weight"):
        stored_blocks(base, Precision.parse("W2A8"), {})


def test_a_misread_zero_point_is_refused(base: LoadedModel) -> None:
    precision = Precision.parse("W4A8")
    names = {id(p): n for n, p in base.model.named_parameters()}
    weights = {}
    for linear in linears_of(base.model.model.layers).values():
        rounded = quantize_weight(linear.weight, precision)
        zero = torch.where(rounded.zero > 0, rounded.zero - 1, rounded.zero)
        weights[names[id(linear.weight)]] = replace(rounded, zero=zero).dequantize()
    with pytest.raises(PeerError, match=r"q_proj\.weight: its weights are \+(0\.9|1\.0)\d steps"):
        stored_blocks(base, precision, weights)


def test_peer_names_and_supported_precisions() -> None:
    assert all(is_peer(name) for name in (*PEERS, "autoround@1536"))
    assert not any(is_peer(name) for name in ("abq", "gptq@", "gptq@x", "gptq@0", "rtn@32"))
    assert supports(Precision.parse("W3A8g32"))
    assert not any(supports(Precision.parse(text)) for text in ("W2*A8", "W16A8", "W4A4kv4"))


def test_the_error_of_a_peer_that_does_not_run_names_the_readme(base: LoadedModel) -> None:
    tokens = torch.zeros(2, 32, dtype=torch.int64)
    for python in (Path("/nowhere/python"), Path("/bin/false")):
        with pytest.raises(PeerError, match=r"benchmarks/README\.md"):
            run_peer("gptq", python, base, Precision.parse("W2A8"), tokens, OPTIONS)
    with pytest.raises(PeerError, match="omit the star"):
        run_peer("gptq", CONDITIONS.peer_python, base, Precision.parse("W2*A8"), tokens, OPTIONS)


@pytest.mark.parametrize("peer", PEERS)
def test_recorded_output_of_the_peers_is_on_the_grid(peer: str) -> None:
    """One linear of a tiny model at W2A8, as the packages wrote it: exactly four levels."""
    with safe_open(EXAMPLE, "pt") as file:
        weight, record = file.get_tensor(peer), json.loads(file.metadata()[peer])
    assert record["package"].split()[0] in ("gptqmodel", "auto-round") and record["settings"]["bits"] == 2
    found = integers(weight, Precision.parse("W2A8"))
    assert found.codes.unique().tolist() == [0, 1, 2, 3]
    with pytest.raises(PeerError):
        integers(weight, Precision.parse("W1A8"))


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("text", "symmetric"), [("W2A8", False), ("W3A4", True), ("W4A8g32", False)])
def test_the_installed_peers_stay_on_the_grid(base: LoadedModel, peer: str, text: str, symmetric: bool) -> None:
    if not PEER_PYTHON.is_file():
        pytest.skip("the peers' packages are not installed: make peers")
    tokens = torch.randint(1, base.vocabulary, (8, 64), generator=torch.Generator().manual_seed(0))
    options = {**OPTIONS, "symmetric": symmetric}
    result = run_peer(peer, PEER_PYTHON, base, Precision.parse(text), tokens, options)
    assert len(result.store.blocks) == 2 and result.record["cpu_seconds"] > 0
