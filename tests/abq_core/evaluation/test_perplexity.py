"""Scores against direct formulas, standard errors, and models that cannot be scored."""

import copy
import math
from pathlib import Path

import pytest
import torch

from abq_core.evaluation import block_pass
from abq_core.evaluation import perplexity as module
from abq_core.evaluation.perplexity import EvaluationError, evaluate, perplexity_gap
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return torch.randint(1, 300, (6, 24), generator=torch.Generator().manual_seed(0))


def direct_scores(model: LoadedModel, full: LoadedModel, text: torch.Tensor) -> dict[str, float]:
    """All logits at once, one token at a time."""
    losses, kl, same = [], [], []
    for segment in text:
        q = torch.log_softmax(model.model(segment[None]).logits[0].double(), -1)
        p = torch.log_softmax(full.model(segment[None]).logits[0].double(), -1)
        losses.append(-sum(q[i, segment[i + 1]].item() for i in range(len(segment) - 1)) / (len(segment) - 1))
        kl += [(p[i].exp() * (p[i] - q[i])).sum().item() for i in range(len(segment) - 1)]
        same += [p[i].argmax() == q[i].argmax() for i in range(len(segment) - 1)]
    mean = sum(losses) / len(losses)
    variance = sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)
    kl.sort()
    return {
        "perplexity": math.exp(mean),
        "perplexity_stderr": math.exp(mean) * math.sqrt(variance / len(losses)),
        "kl_mean": sum(kl) / len(kl),
        "kl_median": kl[len(kl) // 2],
        "same_top": sum(map(float, same)) / len(same),
    }


@pytest.mark.parametrize("logits_at_once", [1, 300 * 7, 1 << 22])
@pytest.mark.parametrize("forward_tokens", [1, 60, 2048])
def test_scores_equal_the_direct_formulas(
    base: LoadedModel, text: torch.Tensor, monkeypatch: pytest.MonkeyPatch, logits_at_once: int, forward_tokens: int
) -> None:
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", logits_at_once)
    monkeypatch.setattr(block_pass, "FORWARD_TOKENS", forward_tokens)
    rounded = rounded_model(base, Precision.parse("W4A6"), "simulated")
    scores = evaluate(rounded, base, text)
    for name, value in direct_scores(rounded, base, text).items():
        tolerance = 0.02 if name in ("kl_median",) else 1e-4
        assert getattr(scores, name) == pytest.approx(value, rel=tolerance, abs=1e-7), name
    assert scores.kl_median <= scores.kl_p99
    assert scores.kl_mean > 0 and scores.same_top < 1


def test_the_first_predictions_can_be_left_out(base: LoadedModel, text: torch.Tensor) -> None:
    rounded = rounded_model(base, Precision.parse("W4A6"), "simulated")
    whole, first, rest = (evaluate(rounded, base, ids, None, n) for ids, n in ((text, 0), (text[:, :4], 0), (text, 3)))
    for name in ("kl_mean", "same_top"):
        expected = (3 * getattr(first, name) + 20 * getattr(rest, name)) / 23
        assert getattr(whole, name) == pytest.approx(expected, rel=1e-4)
    for total, start, end in zip(whole.segment_losses, first.segment_losses, rest.segment_losses, strict=True):
        assert total == pytest.approx((3 * start + 20 * end) / 23, rel=1e-5)


def test_full_precision_is_at_distance_zero(base: LoadedModel, text: torch.Tensor) -> None:
    for reference in (None, base):
        scores = evaluate(base, reference, text)
        assert (scores.kl_mean, scores.kl_median, scores.kl_p99, scores.same_top) == (0, 0, 0, 1)
    twin = LoadedModel(base.ref, copy.deepcopy(base.model), base.tokenizer, base.precision)
    compared = evaluate(twin, base, text)
    assert compared.kl_p99 == 0 and compared.same_top == 1
    assert compared.perplexity == scores.perplexity


def test_uniform_predictions_have_the_vocabulary_as_perplexity(base: LoadedModel, text: torch.Tensor) -> None:
    blank = copy.deepcopy(base.model)
    torch.nn.init.zeros_(blank.lm_head.weight)
    scores = evaluate(LoadedModel("blank", blank, base.tokenizer, base.precision), base, text)
    assert scores.perplexity == pytest.approx(300, rel=1e-5)
    assert scores.perplexity_stderr == pytest.approx(0, abs=1e-3)


def test_the_standard_error_predicts_the_spread_of_perplexities(base: LoadedModel) -> None:
    samples = torch.randint(1, 300, (40, 16, 12), generator=torch.Generator().manual_seed(1))
    scores = [evaluate(base, None, sample) for sample in samples]
    spread = torch.tensor([s.perplexity for s in scores]).std().item()
    predicted = sum(s.perplexity_stderr for s in scores) / len(scores)
    assert 0.6 < predicted / spread < 1.6


def test_the_error_of_a_gap_predicts_its_spread_and_is_smaller_than_the_unpaired_one(base: LoadedModel) -> None:
    rounded = rounded_model(base, Precision.parse("W4A4"), "simulated")
    samples = torch.randint(1, 300, (40, 16, 12), generator=torch.Generator().manual_seed(1))
    pairs = [(evaluate(base, None, sample), evaluate(rounded, None, sample)) for sample in samples]
    gaps = [perplexity_gap(full.segment_losses, other.segment_losses) for full, other in pairs]
    for (gap, _), (full, other) in zip(gaps, pairs, strict=True):
        assert gap == pytest.approx(other.perplexity - full.perplexity)
    spread = torch.tensor([gap for gap, _ in gaps]).std().item()
    predicted = sum(stderr for _, stderr in gaps) / len(gaps)
    assert 0.6 < predicted / spread < 1.6
    assert predicted < 0.8 * sum(other.perplexity_stderr for _, other in pairs) / len(pairs)


def test_losses_of_different_segments_are_not_paired() -> None:
    with pytest.raises(EvaluationError, match="3 and 2 segment losses"):
        perplexity_gap([1.0, 2.0, 3.0], [1.0, 2.0])


def test_fewer_bits_mean_a_larger_distance(base: LoadedModel, text: torch.Tensor) -> None:
    distances = [
        evaluate(rounded_model(base, Precision.parse(p), "simulated"), base, text).kl_mean
        for p in ("W8A8", "W4A8", "W2A8")
    ]
    assert distances == sorted(distances) and distances[0] < 0.1 * distances[2]


def test_progress_counts_blocks_and_batches_and_may_stop(
    base: LoadedModel, text: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_pass, "FORWARD_TOKENS", 96)
    seen: list[tuple[int, int]] = []
    evaluate(base, None, text, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two blocks, two batches
    seen.clear()
    evaluate(rounded_model(base, Precision.parse("W4A6"), "simulated"), base, text, lambda *step: seen.append(step))
    assert seen == [(done, 6) for done in range(1, 7)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluate(base, None, text, stop)


def test_models_and_segments_that_cannot_be_scored_are_named(
    base: LoadedModel, text: torch.Tensor, tiny_opt: Path
) -> None:
    for bad in (text[:1], text[:, :1], text[0]):
        with pytest.raises(EvaluationError, match="at least 2 segments"):
            evaluate(base, None, bad)
    with pytest.raises(EvaluationError, match=r"context of .*128"):
        evaluate(base, None, torch.zeros(2, 129, dtype=torch.int64))
    broken = copy.deepcopy(base.model)
    broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match=r"W2A2 .* nan nats"):
        evaluate(LoadedModel("x", broken, base.tokenizer, Precision.parse("W2A2")), base, text)
    packed = rounded_model(base, Precision.parse("W2A2"), "packed")
    with torch.no_grad():
        packed.model.model.layers[1].input_layernorm.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match=r"W2A2 .* nan nats"):
        evaluate(packed, base, text)
    broken.model.norm.weight.fill_(1e6)
    with pytest.raises(EvaluationError, match="perplexity is not usable"):
        evaluate(LoadedModel("x", broken, base.tokenizer, Precision.parse("W2A2")), base, text)
