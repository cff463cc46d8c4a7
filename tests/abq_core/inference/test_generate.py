"""Generation.

Greedy and sampled tokens, KL divergence, streaming of incomplete characters, errors.
"""

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import torch

from abq_core.inference.generate import (
    Finished,
    GenerationError,
    PromptError,
    Token,
    _choose,
    generate,
    generate_endlessly,
)
from abq_core.inference.prompts import starts
from abq_core.inference.runtime import rounded_model, weight_bytes
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision

PROMPT = "The module provides "


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_opt"])
def base(request: pytest.FixtureRequest) -> LoadedModel:
    loaded = load_model(str(request.getfixturevalue(request.param)))
    loaded.model.generation_config.eos_token_id = None
    loaded.tokenizer.eos_token = None  # random weights could end the text early
    return loaded


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture(scope="module")
def rounded(base: LoadedModel) -> LoadedModel:
    return rounded_model(base, Precision.parse("W3A6"), "simulated")


def run(
    columns: dict[str, LoadedModel], reference: LoadedModel | None, count: int = 12, **settings: float
) -> tuple[dict[str, list[Token]], dict[str, Finished]]:
    tokens: dict[str, list[Token]] = {name: [] for name in columns}
    ends: dict[str, Finished] = {}
    for event in generate(columns, reference, PROMPT, count, **settings):  # type: ignore[arg-type]
        if isinstance(event, Token):
            tokens[event.column].append(event)
        else:
            ends[event.column] = event
    return tokens, ends


def test_columns_that_follow_read_the_text_of_the_first_one(base: LoadedModel, rounded: LoadedModel) -> None:
    columns = {"full": base, "q": rounded}
    tokens, ends = run(columns, base, follow=True, candidates=5)
    alone, _ = run({"full": base}, base)
    assert [t.id for t in tokens["full"]] == [t.id for t in alone["full"]] == [t.id for t in tokens["q"]]
    assert [t.text for t in tokens["q"]] == [t.text for t in tokens["full"]] and ends["q"].tokens == len(tokens["q"])
    assert all(t.chosen == t.id for t in tokens["full"])
    ids = starts(columns, PROMPT, 12)["full"].ids
    for step, token in enumerate(tokens["q"]):
        read = [*ids, *(t.id for t in tokens["full"][:step])]
        full, own = (prefix_log_probabilities(model, read) for model in (base, rounded))
        assert token.kl == pytest.approx(float((full.exp() * (full - own)).sum()), abs=1e-4)
        assert token.chosen == int(own.argmax())
        values, top = own.exp().topk(5)
        assert [candidate.id for candidate in token.candidates] == top.tolist()
        assert [candidate.probability for candidate in token.candidates] == pytest.approx(values.tolist(), abs=1e-4)
    own, _ = run({"q": rounded}, base)
    differs = [t.id for t in own["q"]] != [t.id for t in tokens["q"]]
    assert any(t.chosen != t.id for t in tokens["q"]) == differs


def prefix_log_probabilities(model: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Log probabilities of the next token after `ids`, computed without a cache."""
    with torch.inference_mode():
        return torch.log_softmax(model.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double(), -1)


def test_greedy_tokens_are_the_argmax_of_an_uncached_forward(base: LoadedModel, rounded: LoadedModel) -> None:
    tokens, _ = run({"full": base, "q": rounded}, base)
    for name, model in (("full", base), ("q", rounded)):
        ids = base.tokenizer(PROMPT)["input_ids"]
        for token in tokens[name]:
            assert token.id == int(prefix_log_probabilities(model, ids).argmax())
            ids.append(token.id)


def test_kl_is_measured_on_the_columns_own_text(base: LoadedModel, rounded: LoadedModel) -> None:
    tokens, _ = run({"full": base, "q": rounded}, base, temperature=0.8, seed=3)
    ids = base.tokenizer(PROMPT)["input_ids"]
    for token in tokens["q"]:
        p, q = prefix_log_probabilities(base, ids), prefix_log_probabilities(rounded, ids)
        assert token.kl == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-3, abs=1e-6)
        ids.append(token.id)
    assert all(token.kl == 0 for token in tokens["full"])
    alone, _ = run({"q": rounded}, None)
    assert all(token.kl is None for token in alone["q"])


def test_equal_models_sample_equal_tokens_and_seeds_matter(base: LoadedModel) -> None:
    twin = LoadedModel(base.ref, copy.deepcopy(base.model), base.tokenizer, base.precision)
    tokens, _ = run({"a": base, "b": twin}, base, temperature=1.0, seed=5)
    ids = {name: [t.id for t in column] for name, column in tokens.items()}
    assert ids["a"] == ids["b"]
    assert max(t.kl or 0 for t in tokens["b"]) < 1e-6
    again, _ = run({"a": base}, None, temperature=1.0, seed=5)
    assert [t.id for t in again["a"]] == ids["a"]
    other, _ = run({"a": base}, None, temperature=1.0, seed=6)
    assert [t.id for t in other["a"]] != ids["a"]


def test_sampling_follows_the_distribution(llama: LoadedModel) -> None:
    expected = prefix_log_probabilities(llama, llama.tokenizer(PROMPT)["input_ids"]).exp()
    counts = torch.zeros(300)
    draws = 400
    for seed in range(draws):
        first = next(generate({"a": llama}, None, PROMPT, 1, 1.0, seed))
        assert isinstance(first, Token)
        counts[first.id] += 1
    likely = expected.topk(5).indices
    error = 4 * (expected[likely] * (1 - expected[likely]) / draws).sqrt()
    assert ((counts[likely] / draws - expected[likely]).abs() < error).all()


def test_columns_advance_round_robin_and_end_with_a_summary(base: LoadedModel, rounded: LoadedModel) -> None:
    events = list(generate({"full": base, "q": rounded}, base, PROMPT, 5))
    order = [(e.column, e.index) for e in events if isinstance(e, Token)]
    assert order == [(name, index) for index in range(5) for name in ("full", "q")]
    for end, model in zip(events[-2:], (base, rounded), strict=True):
        assert isinstance(end, Finished)
        assert end.tokens == 5 and end.weight_bytes == weight_bytes(model)
        seconds = [e.seconds for e in events if isinstance(e, Token) and e.column == end.column]
        assert seconds == sorted(seconds) and end.first_token_seconds == seconds[0] > 0
        assert end.tokens_per_second == pytest.approx(1 / median(b - a for a, b in pairwise(seconds)))


def test_the_streamed_texts_concatenate_to_the_decoded_text(base: LoadedModel) -> None:
    for seed in range(6):
        tokens, _ = run({"a": base}, None, count=40, temperature=1.0, seed=seed)
        ids = base.tokenizer(PROMPT)["input_ids"] + [t.id for t in tokens["a"]]
        assert PROMPT + "".join(t.text for t in tokens["a"]) == base.tokenizer.decode(ids, skip_special_tokens=True)


class Scripted(LoadedModel):
    """Generates the given ids, whatever it reads."""

    script: list[int]

    def hidden(self, ids: torch.Tensor, cache: object = None) -> torch.Tensor:
        self.script = self.script if ids.shape[1] > 1 else self.script[1:]
        return torch.zeros(1, 1, 1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(self.script[0]), 300).float() * 50


def scripted(base: LoadedModel, ids: list[int]) -> Scripted:
    model = Scripted(base.ref, base.model, base.tokenizer, base.precision)
    model.script = ids
    return model


def test_a_character_of_several_tokens_is_emitted_when_complete(llama: LoadedModel) -> None:
    text = "é → 漢字 😀!"
    ids = llama.tokenizer(text)["input_ids"]
    assert len(ids) > len(text)
    events = [e for e in generate({"a": scripted(llama, ids)}, None, PROMPT, len(ids)) if isinstance(e, Token)]
    assert "".join(e.text for e in events) == text
    assert not any("\ufffd" in e.text for e in events)
    cut = [e for e in generate({"a": scripted(llama, ids)}, None, PROMPT, len(ids) - 2) if isinstance(e, Token)]
    assert "".join(e.text for e in cut) == "é → 漢字 \ufffd"


def test_an_end_token_ends_its_column_only(llama: LoadedModel) -> None:
    columns = {"short": scripted(llama, [70, 71, 0, 72]), "long": scripted(llama, [70, 71, 73, 74, 75])}
    events = list(generate(columns, None, PROMPT, 5))
    short = [e for e in events if isinstance(e, Token) and e.column == "short"]
    assert [e.id for e in short] == [70, 71, 0] and short[-1].text == ""
    ends = {e.column: e.tokens for e in events if isinstance(e, Finished)}
    assert ends == {"short": 3, "long": 5}


def test_errors_are_raised_immediately_and_say_what_to_do(llama: LoadedModel) -> None:
    columns = {"a": llama}
    for prompt, count, temperature, message in (
        ("", 5, 0.0, "empty"),
        ("  \n\t", 5, 0.0, "empty"),
        ("word " * 200, 5, 0.0, "context of .*128"),
        ("x" * 100_000_000, 5, 0.0, "characters"),
        (PROMPT, 128, 0.0, "generate fewer tokens"),
        (PROMPT, 0, 0.0, "number of new tokens is 0"),
        (PROMPT, 5, -1.0, "temperature is -1"),
        (PROMPT, 5, float("nan"), "temperature is nan"),
        (PROMPT, 5, 1e9, "from 0"),
    ):
        with pytest.raises(PromptError, match=message):
            generate(columns, llama, prompt, count, temperature)
    with pytest.raises(PromptError, match="No models to generate with"):
        generate({}, llama, PROMPT)


def test_a_prompt_may_fill_the_context(llama: LoadedModel) -> None:
    ids = llama.tokenizer(PROMPT)["input_ids"]
    for temperature in (0.0, 0.5, 10.0):
        events = list(generate({"a": llama}, llama, PROMPT, 128 - len(ids), temperature, 1))
        assert isinstance(events[-1], Finished)


def test_a_model_with_logits_that_are_not_finite_is_named(llama: LoadedModel) -> None:
    broken = copy.deepcopy(llama.model)
    broken.model.norm.weight.fill_(float("nan"))
    column = LoadedModel("x", broken, llama.tokenizer, Precision.parse("W1A1"))
    with pytest.raises(GenerationError, match=r"W1A1 .* not finite"):
        list(generate({"a": column}, llama, PROMPT, 3))


@pytest.mark.parametrize("part", ["embedding", "norm"])
@pytest.mark.parametrize("precision", ["W4A8", "W4A8kv4", "W4A16"])
@pytest.mark.parametrize("decoded", [False, True])
def test_a_packed_model_with_logits_that_are_not_finite_is_named(
    llama: LoadedModel, part: str, precision: str, decoded: bool
) -> None:
    own = replace(llama, model=copy.deepcopy(llama.model))  # its embedding is shared with the packed model
    model = rounded_model(own, Precision.parse(precision), "packed")
    if part == "embedding":
        broken = model.model.get_input_embeddings().weight
    else:
        broken = blocks_of(model.model)[1].input_layernorm.weight
    events = generate({"a": model}, None, PROMPT, 3)
    if decoded:  # the prompt runs through the modules, later tokens through the decoder
        next(events)
    with torch.no_grad():
        broken.fill_(float("inf"))
    with pytest.raises(GenerationError, match=rf"The {precision} model .* not finite\. Use more bits"):
        list(events)


def test_models_with_different_vocabularies_have_no_kl(llama: LoadedModel) -> None:
    other = copy.deepcopy(llama.tokenizer)
    other.add_tokens(["<new>"])
    column = LoadedModel("x", copy.deepcopy(llama.model), other, llama.precision)
    token = next(generate({"a": column}, llama, PROMPT, 1))
    assert isinstance(token, Token) and token.kl is None
    with pytest.raises(PromptError, match="another vocabulary"):
        generate({"full": llama, "a": column}, llama, PROMPT, 1, follow=True)


@pytest.mark.parametrize("temperature", [1e-308, 1e-300, 1e-30])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    assert _choose(torch.tensor([1.0, 20.0, -3.0, 5.0]), temperature, 0.3) == 1


def test_endless_columns_write_all_tokens(llama: LoadedModel) -> None:
    words = [event.id for event in generate({"a": llama}, None, PROMPT, 12) if isinstance(event, Token)]
    model = copy.copy(llama.model)
    model.generation_config = copy.copy(llama.model.generation_config)
    model.generation_config.eos_token_id = words[3]
    ending = replace(llama, model=model)
    assert len([event for event in generate({"a": ending}, None, PROMPT, 12) if isinstance(event, Token)]) <= 4
    events = list(generate_endlessly({"a": ending}, PROMPT, 12))
    assert [event.id for event in events if isinstance(event, Token)] == words
    assert isinstance(events[-1], Finished) and events[-1].tokens == 12 and not events[-1].complete
