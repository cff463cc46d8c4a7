"""Generate text with several models at once, and measure each token's KL divergence."""

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from abq_core.calibration.losses import kl_divergence
from abq_core.inference.detokenizer import Detokenizer
from abq_core.inference.errors import GenerationError, PromptError
from abq_core.inference.prompts import Prompt, Start, end_tokens, starts
from abq_core.inference.reader import Reader, most_likely
from abq_core.inference.runtime import weight_bytes
from abq_core.models.loading import LoadedModel
from abq_core.models.tokenizer import decode

__all__ = ["Candidate", "Finished", "GenerationError", "PromptError", "Token", "generate", "greedy_continuation"]


class Candidate(NamedTuple):
    """A token that a column might write next. probability: at temperature 1."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Token:
    """One generated token.

    text: empty while a character is incomplete.  kl: KL(full || column) in nats, None without a reference.
    seconds: compute time of this column so far.  chosen: the id that the column itself chose; another one than `id` if
    the column follows the first one.  candidates: the most likely tokens, most likely first.
    """

    column: str
    index: int
    id: int
    text: str
    kl: float | None
    seconds: float
    chosen: int
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Summary of a finished column.

    tokens_per_second: 1 / median time of the tokens after the first, so that one-time loading, compilation and graph
    capture do not count; 0 if there is only one token.  complete: an end token was generated, not the last one allowed.
    """

    column: str
    tokens: int
    tokens_per_second: float
    first_token_seconds: float
    weight_bytes: int
    complete: bool


def generate(
    columns: Mapping[str, LoadedModel],
    reference: LoadedModel | None,
    prompt: Prompt | Mapping[str, Prompt],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    follow: bool = False,
    candidates: int = 0,
) -> Iterator[Token | Finished]:
    """Stream the tokens of all columns round-robin, and a `Finished` when a column ends.

    prompt: a text is continued. Messages, {"role": "user", "content": "Hello"}, are rendered with the model's chat
    template and answered, up to the end of the turn. A mapping holds one of these per column.
    temperature: 0 for greedy decoding.  Otherwise step i of every column samples with the same random number, so that
    equal distributions produce equal tokens.  reference: evaluated on each column's own text for `Token.kl`; its time
    does not count.  follow: all columns read the text of the first one, so that their distributions at each token have
    the same context.  candidates: how many each token has; they do not count in the time.

    Raises PromptError and ChatTemplateError immediately, not at the first token; iterating raises GenerationError.
    """
    if not columns:
        raise PromptError("No models to generate with: choose at least one.")
    if not (math.isfinite(temperature) and 0 <= temperature <= 10):
        raise PromptError(f"The temperature is {temperature}: use a number from 0 (greedy) to 10.")
    if max_new_tokens < 1:
        raise PromptError(f"The number of new tokens is {max_new_tokens}: use 1 or more.")
    first = next(iter(columns.values()))
    if follow and not all(_same_vocabulary(first, model) for model in columns.values()):
        raise PromptError("A column has another vocabulary than the first one, so it cannot follow its text.")
    started = [
        _Column(name, columns[name], reference, start, max_new_tokens, temperature, candidates)
        for name, start in starts(columns, prompt, max_new_tokens).items()
    ]
    return _round_robin(started, max_new_tokens, random.Random(seed), follow)


def generate_endlessly(
    columns: Mapping[str, LoadedModel], prompt: Prompt, max_new_tokens: int
) -> Iterator[Token | Finished]:
    """Stream greedy tokens of all columns round-robin, for timings: no end token ends a column.

    Raises PromptError immediately; iterating raises GenerationError.
    """
    started = [
        _Column(name, columns[name], None, start._replace(ends=frozenset()), max_new_tokens, 0.0, 0)
        for name, start in starts(columns, prompt, max_new_tokens).items()
    ]
    return _round_robin(started, max_new_tokens, random.Random(0), follow=False)


def greedy_continuation(model: LoadedModel, ids: Sequence[int], max_new_tokens: int, stops: Sequence[str]) -> str:
    """Continue token ids greedily until a stop text (excluded) or the end-of-text token.

    ids and the new tokens must fit into the model's context. Raises PromptError if ids is empty.
    """
    if not ids:
        raise PromptError("There is nothing to continue: give at least one token of context.")
    reader, ends = Reader(model, len(ids) + max_new_tokens), end_tokens(model)
    following, written, text = list(ids), list[int](), ""
    for _ in range(max_new_tokens):
        token = most_likely(reader.read(following))
        if token in ends:
            break
        written.append(token)
        following = [token]
        text = decode(model.tokenizer, written, skip_special_tokens=True)
        if found := [at for stop in stops if stop and (at := text.find(stop)) >= 0]:
            return text[: min(found)]
    return text


def _round_robin(
    columns: list["_Column"], max_new_tokens: int, rng: random.Random, follow: bool
) -> Iterator[Token | Finished]:
    running = columns
    for step in range(max_new_tokens):
        uniform, leader = rng.random(), None
        for column in running:
            last = step + 1 == max_new_tokens or (leader is not None and columns[0].ended)
            token = column.advance(uniform, last, None if leader is None else leader.id)
            if follow and leader is None:
                leader = token
            yield token
        for column in running:
            if column.ended:
                yield column.finished()
        running = [column for column in running if not column.ended]
        if not running:
            return


class _Column:
    """One generating model: its KV cache, the reference on the same text, and its timing."""

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        reference: LoadedModel | None,
        start: Start,
        max_new_tokens: int,
        temperature: float,
        candidates: int,
    ) -> None:
        self.ended = self._complete = False
        self._name, self._temperature, self._candidates = name, temperature, candidates
        capacity = len(start.ids) + max_new_tokens
        self._own_reader = Reader(model, capacity)
        self._reference_reader = None
        self._is_reference = reference is not None and reference.model is model.model
        if reference is not None and not self._is_reference and _same_vocabulary(reference, model):
            self._reference_reader = Reader(reference, capacity)
        self._model = model
        self._ends = start.ends
        self._detokenizer = Detokenizer(model.tokenizer, start.ids)
        self._next = start.ids
        self._seconds: list[float] = []  # per token

    def advance(self, uniform: float, last: bool, followed: int | None) -> Token:
        """Generate one token. uniform: the random number of this step.  followed: the token that is read instead."""
        started = time.perf_counter()
        logits = self._own_reader.read(self._next)
        chosen = _choose(logits, self._temperature, uniform)
        self._seconds.append(time.perf_counter() - started)
        kl = self._kl(logits)
        written = chosen if followed is None else followed
        self._complete = written in self._ends
        self.ended = last or self._complete
        text = self._detokenizer.add(written, self.ended)
        self._next = [written]
        at, seconds = len(self._seconds) - 1, sum(self._seconds)
        return Token(self._name, at, written, text, kl, seconds, chosen, self._most_likely(logits))

    def finished(self) -> Finished:
        first, *others = self._seconds
        rate = 1 / median(others) if others else 0.0
        return Finished(self._name, len(self._seconds), rate, first, weight_bytes(self._model), self._complete)

    def _most_likely(self, logits: Tensor) -> tuple[Candidate, ...]:
        if not self._candidates:
            return ()
        values, ids = torch.softmax(logits, -1).topk(min(self._candidates, len(logits)))
        return tuple(
            Candidate(token, decode(self._model.tokenizer, [token]), probability)
            for token, probability in zip(ids.tolist(), values.tolist(), strict=True)
        )

    def _kl(self, logits: Tensor) -> float | None:
        if self._is_reference:
            return 0.0
        if self._reference_reader is None:
            return None
        full = self._reference_reader.read(self._next)
        return kl_divergence(torch.log_softmax(full, -1), torch.log_softmax(logits, -1)).item()


def _choose(logits: Tensor, temperature: float, uniform: float) -> int:
    """Choose a token: greedy at temperature 0, else by inverse transform sampling.

    uniform: the random number, in [0, 1).
    The cumulative distribution is in the order of token ids, so that similar distributions nearly always produce the
    same token for the same random number.
    """
    if temperature == 0:
        return most_likely(logits)
    weights = logits.double()
    cumulative = weights.sub_(weights.max()).div_(temperature).exp_().cumsum(0)  # at most 0 before the division
    position = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return min(int(position), len(logits) - 1)


def _same_vocabulary(a: LoadedModel, b: LoadedModel) -> bool:
    """Whether both models have the same vocabulary, so that their distributions compare."""
    if a.vocabulary != b.vocabulary:
        return False
    return a.tokenizer is b.tokenizer or a.tokenizer.get_vocab() == b.tokenizer.get_vocab()
