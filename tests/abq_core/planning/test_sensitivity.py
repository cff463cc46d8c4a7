"""One linear at a time.

The distances are those of a model in which only this linear is quantized.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import abq_core.planning.sensitivity
from abq_core.evaluation.perplexity import evaluate
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.planning.sensitivity import sensitivities
from abq_core.precision import FULL, Precision, PrecisionError
from abq_core.quantization.quant_linear import QuantLinear, linears_of, replace_module
from abq_core.quantization.quantizers import quantize_weight

W2, W4, ONLY_INPUT = (Precision.parse(text) for text in ("W2A8", "W4A8", "W16A8"))


@pytest.fixture(scope="module", params=["llama", "opt"])
def base(request: pytest.FixtureRequest, tiny_llama: Path, tiny_opt: Path) -> LoadedModel:
    return load_model(str(tiny_llama if request.param == "llama" else tiny_opt))


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(1, 300, (3, 16), generator=torch.Generator().manual_seed(0))


def by_hand(base: LoadedModel, block: int, name: str, precision: Precision, ids: Tensor) -> float:
    """Quantize one linear of a copy and evaluate it."""
    model = copy.deepcopy(base.model)
    parent = blocks_of(model)[block]
    linear = parent.get_submodule(name)
    quantized = QuantLinear.wrap(linear, precision.act_bits)
    if precision.quantizes_weights:
        quantized.weight = nn.Parameter(quantize_weight(linear.weight, precision).dequantize(), requires_grad=False)
    replace_module(parent, name, quantized)
    return evaluate(LoadedModel(base.ref, model, base.tokenizer, precision), base, ids).kl_mean


def test_each_distance_is_that_of_the_model_with_this_linear_quantized(base: LoadedModel, ids: Tensor) -> None:
    before = {name: t.clone() for name, t in base.model.state_dict().items()}
    steps: list[tuple[int, int]] = []
    found = sensitivities(base, [W2, ONLY_INPUT], ids, lambda *step: steps.append(step))
    linears = [(i, name) for i, block in enumerate(blocks_of(base.model)) for name in linears_of(block)]
    assert [(one.block, one.name) for one in found[::2]] == linears and len(found) == 2 * len(linears)
    assert steps == [(n + 1, len(found)) for n in range(len(found))]
    for one in (found[0], found[1], found[4], found[-2], found[-1]):
        assert one.kl == pytest.approx(by_hand(base, one.block, one.name, one.precision, ids), rel=1e-3, abs=1e-7)
        weight = blocks_of(base.model)[one.block].get_submodule(one.name).weight
        assert (one.rows, one.columns, one.weights) == (*weight.shape, weight.numel())
    assert all(torch.equal(t, before[name]) for name, t in base.model.state_dict().items())
    assert not any(isinstance(module, QuantLinear) for module in base.model.modules())


def test_text_in_pieces_gives_the_same_means(base: LoadedModel, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sensitivities(base, [W4], ids)
    monkeypatch.setattr(abq_core.planning.sensitivity, "LOGITS_AT_ONCE", 2 * 16 * base.vocabulary)  # 2 segments, then 1
    for one, other in zip(whole, sensitivities(base, [W4], ids), strict=True):
        assert (one.block, one.name) == (other.block, other.name)
        assert other.kl == pytest.approx(one.kl, rel=1e-3, abs=1e-8)


def test_the_first_predictions_can_be_left_out(base: LoadedModel, ids: Tensor) -> None:
    one, rest = (sensitivities(base, [W2], ids, None, unscored)[-1].kl for unscored in (0, 9))
    assert one != pytest.approx(rest, rel=1e-3)
    pairs = [sensitivities(base, [W2], ids[:, :10])[-1].kl, rest]  # predictions 1 to 9, and 10 to 15
    assert one == pytest.approx((9 * pairs[0] + 6 * pairs[1]) / 15, rel=1e-3)


def test_more_bits_lose_less_and_all_bits_nothing(base: LoadedModel, ids: Tensor) -> None:
    sums = dict.fromkeys((W2, W4, ONLY_INPUT, FULL), 0.0)
    for one in sensitivities(base, list(sums), ids):
        sums[one.precision] += one.kl
    assert sums[W2] > sums[W4] > sums[ONLY_INPUT] > sums[FULL] == 0


def test_it_can_be_stopped(base: LoadedModel, ids: Tensor) -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sensitivities(base, [W2], ids, stop)
    assert not any("forward" in vars(block) for block in blocks_of(base.model))


@pytest.mark.parametrize("candidates", [[], [W2, W2]])
def test_candidates_are_some_each_once(base: LoadedModel, ids: Tensor, candidates: list[Precision]) -> None:
    with pytest.raises(PrecisionError, match="each once"):
        sensitivities(base, candidates, ids)
