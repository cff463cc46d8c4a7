"""Log-likelihoods against one forward pass per text.

Boundaries, batches, truncation, both engines.
"""

from pathlib import Path

import pytest
import torch

from abq_core.evaluation import likelihood as module
from abq_core.evaluation.likelihood import LikelihoodError, log_likelihoods
from abq_core.inference.generate import PromptError, greedy_continuation
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision

Pairs = list[tuple[list[int], list[int]]]


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


def some_pairs(lengths: list[tuple[int, int]]) -> Pairs:
    rng = torch.Generator().manual_seed(0)
    return [
        (torch.randint(1, 300, (a,), generator=rng).tolist(), torch.randint(1, 300, (b,), generator=rng).tolist())
        for a, b in lengths
    ]


def direct(model: LoadedModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The whole text in one pass through the transformers model."""
    ids = torch.tensor([context + continuation])
    log_p = torch.log_softmax(model.model(ids[:, :-1]).logits[0].double(), -1)
    places = range(len(context) - 1, ids.shape[1] - 1)
    total = sum(log_p[place, ids[0, place + 1]].item() for place in places)
    return total, all(int(log_p[place].argmax()) == int(ids[0, place + 1]) for place in places)


@pytest.mark.parametrize("forward_tokens", [1, 50, 2048])
@pytest.mark.parametrize("logits_at_once", [300 * 3, 1 << 22])
def test_log_likelihoods_equal_a_direct_computation(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch, forward_tokens: int, logits_at_once: int
) -> None:
    monkeypatch.setattr(module, "_FORWARD_TOKENS", forward_tokens)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", logits_at_once)
    pairs = some_pairs([(1, 1), (5, 3), (3, 5), (40, 8), (1, 20), (100, 28), (20, 1), (7, 7)])
    for (total, greedy), (context, continuation) in zip(log_likelihoods(base, pairs), pairs, strict=True):
        expected, is_greedy = direct(base, context, continuation)
        assert total == pytest.approx(expected, rel=1e-4)
        assert greedy == is_greedy


@pytest.mark.parametrize("engine", ["simulated", "packed"])
def test_quantized_models_are_scored_with_their_own_logits(base: LoadedModel, engine: str) -> None:
    model = rounded_model(base, Precision.parse("W4A8"), engine)  # type: ignore[arg-type]
    pairs = some_pairs([(9, 4), (4, 2), (30, 3)])
    found = [total for total, _ in log_likelihoods(model, pairs)]
    assert found == pytest.approx([direct(model, *pair)[0] for pair in pairs], rel=1e-3)
    assert found != pytest.approx([direct(base, *pair)[0] for pair in pairs], rel=1e-3)


def test_the_output_of_greedy_decoding_is_marked_greedy(base: LoadedModel) -> None:
    context = [5, 9, 200]
    ids = list(context)
    for _ in range(4):
        ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
    greedy, other = ids[3:], [*ids[3:-1], (ids[-1] + 1) % 300]
    found = log_likelihoods(base, [(context, greedy), (context, other)])
    assert [is_greedy for _, is_greedy in found] == [True, False]


def test_the_start_of_a_long_context_is_dropped(base: LoadedModel) -> None:
    context, continuation = some_pairs([(300, 6)])[0]
    kept = context[-(128 + 1 - 6) :]  # 128 input tokens; the last token is only predicted
    assert log_likelihoods(base, [(context, continuation)])[0][0] == pytest.approx(direct(base, kept, continuation)[0])
    longest = some_pairs([(1, 128)])[0]
    assert log_likelihoods(base, [longest])[0][0] == pytest.approx(direct(base, *longest)[0], rel=1e-5)
    with pytest.raises(LikelihoodError, match=r"129 tokens .* context of .* 128"):
        log_likelihoods(base, some_pairs([(4, 129)]))


def test_pairs_with_equal_inputs_share_one_pass(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[torch.Size] = []
    hidden = LoadedModel.hidden

    def counted(self: LoadedModel, ids: torch.Tensor, cache: object = None) -> torch.Tensor:
        passes.append(ids.shape)
        return hidden(self, ids, cache)

    monkeypatch.setattr(LoadedModel, "hidden", counted)
    context = list(range(1, 31))
    found = log_likelihoods(base, [(context, [7]), (context, [8]), (context[:-1], [30, 9])])
    assert passes == [torch.Size([1, 30])]
    assert len({total for total, _ in found}) == 3


def test_progress_counts_pairs_and_may_stop(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FORWARD_TOKENS", 20)
    seen: list[tuple[int, int]] = []
    pairs = some_pairs([(9, 2), (9, 2), (4, 1)])
    log_likelihoods(base, pairs, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        log_likelihoods(base, pairs, stop)


def test_an_empty_context_or_continuation_is_refused(base: LoadedModel) -> None:
    for pair in (([], [1]), ([1], [])):
        with pytest.raises(LikelihoodError, match="both need at least 1"):
            log_likelihoods(base, [pair])
    assert log_likelihoods(base, []) == []


def test_a_greedy_continuation_stops_at_the_first_stop_text(base: LoadedModel) -> None:
    prompt = base.tokenizer("def open(path): return")["input_ids"]
    whole = greedy_continuation(base, prompt, 12, [])
    ids = list(prompt)
    for _ in range(12):
        ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert whole == base.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True) and len(whole) > 3
    stop = whole[2:4]
    assert greedy_continuation(base, prompt, 12, [stop, "never there"]) == whole[: whole.find(stop)]
    with pytest.raises(PromptError, match="nothing to continue"):
        greedy_continuation(base, [], 4, [])
