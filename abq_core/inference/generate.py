"""Text from several models at once, token by token, with each token's distance to full precision."""

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from abq_core.calibration.losses import kl_divergence
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.runtime import weight_bytes
from abq_core.models.loading import LoadedModel
from kernels.formats.activations import NotFiniteError

_CHARACTERS_PER_TOKEN = 64  # a longer prompt cannot fit; it is not even tokenized
_CONTEXT_TOKENS = 6  # tokens before the first new one that decide how it is written


class GenerationError(ValueError):
    """A model that writes nothing sensible at this precision."""


class PromptError(GenerationError):
    """A prompt or a setting from which no text can be generated."""


@dataclass(frozen=True)
class Token:
    """One new token. `text` may be empty while a character is incomplete. `kl`: KL(full || column) in nats, None
    without a reference. `seconds`: this column's own computing time since it began.
    """

    column: str
    index: int
    id: int
    text: str
    kl: float | None
    seconds: float


@dataclass(frozen=True)
class Finished:
    """A column's end. tokens_per_second: of the median token after the first, so that what is loaded, compiled or
    recorded once is no part of it; 0 where there is no second.
    """

    column: str
    tokens: int
    tokens_per_second: float
    first_token_seconds: float
    weight_bytes: int


def generate(
    columns: Mapping[str, LoadedModel],
    reference: LoadedModel | None,
    prompt: str,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[Token | Finished]:
    """Stream tokens of every column in turn, then each column's end. Raises PromptError at once, not at the first
    token.

    temperature 0: the likeliest token.  Otherwise step i of every column draws with the same random number, so that
    equal distributions give equal tokens.  The reference follows each column on that column's own text; its time is
    not counted.
    """
    if not columns:
        raise PromptError("There is no column to generate in: choose at least one model.")
    if not (math.isfinite(temperature) and 0 <= temperature <= 10):
        raise PromptError(f"The temperature is {temperature}: use a number from 0 (always the likeliest token) to 10.")
    if max_new_tokens < 1:
        raise PromptError(f"{max_new_tokens} new tokens cannot be generated: use 1 or more.")
    started = [
        _Column(name, model, reference, _prompt_ids(model, prompt, max_new_tokens), max_new_tokens, temperature)
        for name, model in columns.items()
    ]
    return _in_turn(started, max_new_tokens, random.Random(seed))


def greedy_continuation(model: LoadedModel, ids: Sequence[int], max_new_tokens: int, stops: Sequence[str]) -> str:
    """What follows token ids at temperature 0, up to (and without) the first of the stop texts, or the model's end.

    ids and the new tokens must fit into the model's context. Raises PromptError without ids.
    """
    if not ids:
        raise PromptError("There is no text to go on from: a task needs at least a token of context.")
    reader, ends = _Reader(model, len(ids) + max_new_tokens), _end_tokens(model)
    following, written, text = list(ids), list[int](), ""
    for _ in range(max_new_tokens):
        token = int(reader.read(following).argmax())
        if token in ends:
            break
        written.append(token)
        following = [token]
        text = str(model.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if found := [at for stop in stops if stop and (at := text.find(stop)) >= 0]:
            return text[: min(found)]
    return text


def _prompt_ids(model: LoadedModel, prompt: str, max_new_tokens: int) -> list[int]:
    if not prompt.strip():
        raise PromptError("The prompt is empty: write at least a word.")
    if len(prompt) > model.context * _CHARACTERS_PER_TOKEN:
        raise PromptError(
            f"The prompt has {len(prompt):,} characters: too long for a context of {model.context:,} tokens."
        )
    ids: list[int] = model.tokenizer(prompt, verbose=False)["input_ids"]
    if not ids:
        raise PromptError(f"The prompt {prompt[:40]!r} has no token that '{model.ref}' knows: write something else.")
    if len(ids) + max_new_tokens > model.context:
        raise PromptError(
            f"The prompt has {len(ids):,} tokens; with {max_new_tokens:,} new ones that is more than the context of "
            f"'{model.ref}', {model.context:,}. Shorten the prompt, or ask for fewer new tokens."
        )
    return ids


def _in_turn(columns: list["_Column"], max_new_tokens: int, rng: random.Random) -> Iterator[Token | Finished]:
    running = columns
    for step in range(max_new_tokens):
        uniform = rng.random()
        for column in running:
            yield column.advance(uniform, last=step + 1 == max_new_tokens)
        for column in running:
            if column.ended:
                yield column.finished()
        running = [column for column in running if not column.ended]
        if not running:
            return


class _Column:
    """One model writing: its cache, the reference's shadow on the same text, and its clock."""

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        reference: LoadedModel | None,
        prompt: list[int],
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        self.ended = False
        self._name, self._temperature = name, temperature
        capacity = len(prompt) + max_new_tokens
        self._writer = _Reader(model, capacity)
        self._shadow = None
        self._is_reference = reference is not None and reference.model is model.model
        if reference is not None and not self._is_reference and _same_vocabulary(reference, model):
            self._shadow = _Reader(reference, capacity)
        self._model = model
        self._ends = _end_tokens(model)
        self._pieces = _Pieces(model.tokenizer, prompt)
        self._next = prompt
        self._clock: list[float] = []  # seconds of each token

    def advance(self, uniform: float, last: bool) -> Token:
        """Write one token."""
        started = time.perf_counter()
        logits = self._writer.read(self._next)
        chosen = _choose(logits, self._temperature, uniform)
        self._clock.append(time.perf_counter() - started)
        kl = self._kl(logits)
        self.ended = last or chosen in self._ends
        text = self._pieces.add(chosen, self.ended)
        self._next = [chosen]
        return Token(self._name, len(self._clock) - 1, chosen, text, kl, sum(self._clock))

    def finished(self) -> Finished:
        first, *others = self._clock
        rate = 1 / median(others) if others else 0.0
        return Finished(self._name, len(self._clock), rate, first, weight_bytes(self._model))

    def _kl(self, logits: Tensor) -> float | None:
        if self._is_reference:
            return 0.0
        if self._shadow is None:
            return None
        full = self._shadow.read(self._next)
        return kl_divergence(torch.log_softmax(full, -1), torch.log_softmax(logits, -1)).item()


class _Reader:
    """A model with a KV cache for `capacity` tokens."""

    def __init__(self, model: LoadedModel, capacity: int) -> None:
        self._model, self._decoder = model, model.decoder
        kv_bits = None if model.decoder is None else model.decoder.kv_bits
        self._cache = PreallocatedCache(model.model.config, capacity, kv_bits)

    @torch.inference_mode()
    def read(self, ids: list[int]) -> Tensor:
        """Read on; the logits after the last token, (vocabulary,) float32 on the CPU."""
        try:
            logits = self._model.logits(self._hidden(ids)).cpu()
        except NotFiniteError as error:  # the packed engine refuses what the simulated one hands on
            raise self._broken() from error
        if not torch.isfinite(logits).all():
            raise self._broken()
        return logits

    def _broken(self) -> GenerationError:
        return GenerationError(
            f"The {self._model.precision} model of '{self._model.ref}' gives logits that are not finite. Use more "
            "bits or another method."
        )

    def _hidden(self, ids: list[int]) -> Tensor:
        """The last hidden state of the last token, (hidden,)."""
        if self._decoder is None or self._cache.get_seq_length() == 0:
            return self._model.hidden(torch.tensor([ids]), self._cache)[0, -1]
        for token in ids:
            hidden = self._decoder.hidden(token, self._cache)
        return hidden


class _Pieces:
    """Token ids to text, piece by piece: a character is given out when all of its bytes are there."""

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = prompt[-_CONTEXT_TOKENS:]
        self._given = len(self._decode(self._ids))

    def add(self, token: int, last: bool) -> str:
        """The text that `token` completes; at the end, all that is left."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith("\ufffd") and not last:
            return ""
        piece = text[self._given :]
        self._ids = self._ids[-_CONTEXT_TOKENS:]
        self._given = len(self._decode(self._ids))
        return piece

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _choose(logits: Tensor, temperature: float, uniform: float) -> int:
    """The likeliest token at temperature 0, else the one at `uniform` (0 to 1) of the cumulative distribution.

    In the order of token ids: nearly equal distributions then nearly always give the same token for the same number.
    """
    if temperature == 0:
        return int(logits.argmax())
    cumulative = torch.softmax(logits.double() / temperature, -1).cumsum(0)
    position = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return min(int(position), len(logits) - 1)


def _same_vocabulary(a: LoadedModel, b: LoadedModel) -> bool:
    """True where a token id means the same in both, so that their distributions can be compared."""
    if a.vocabulary != b.vocabulary:
        return False
    return a.tokenizer is b.tokenizer or a.tokenizer.get_vocab() == b.tokenizer.get_vocab()


def _end_tokens(model: LoadedModel) -> frozenset[int]:
    """The ids after which the model has no more to say."""
    named = getattr(model.model.generation_config, "eos_token_id", None)
    ids = [*(named if isinstance(named, list) else [named]), model.tokenizer.eos_token_id]
    return frozenset(token for token in ids if token is not None)
