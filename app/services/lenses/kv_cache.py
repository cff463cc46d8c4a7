"""Perplexity and KL against the size of the KV cache: bits of K and V, and how many tokens it holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas

from abq_core.precision import FULL_BITS
from abq_core.text.sources import BUILTIN_TEXT
from app.measured import Measured
from app.services.errors import ServiceError
from app.services.models import ModelService
from app.services.registry import ModelRegistry
from storage.run_ids import means_run
from storage.runs import Runs

if TYPE_CHECKING:
    from abq_core.evaluation.kv_cost import CacheSize

BITS = (FULL_BITS, 8, 4, 2)
PARTS = (2, 4, 8)  # a cache holds the text's tokens divided by this number
WINDOW, MASS, ALL = "window and sinks", "attention mass", "all tokens"
FEWEST_TOKENS, MOST_TOKENS = 64, 2048  # per segment; attention maps of all heads are in memory
SEGMENTS = 2
MAX_TABLES = 16  # that stay in memory
COLUMNS = ["bits", "kept", "tokens", "bytes", "kl_mean", "perplexity", "perplexity_stderr", "same_top"]

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, or a run with its own weights and 16-bit K and V.

    tokens: per segment, at most; fewer if the model's context is shorter.
    """

    model: str
    run: str = ""
    tokens: int = MOST_TOKENS


class KvCacheService:
    """Measures smaller KV caches by simulation."""

    def __init__(self, registry: ModelRegistry, models: ModelService, runs: Runs) -> None:
        self._registry, self._models, self._runs = registry, models, runs
        self._tables: Measured[Subject, pandas.DataFrame] = Measured(MAX_TABLES)

    def subject(self, model_or_run: str, tokens: int = MOST_TOKENS) -> Subject:
        """What a model or a run means here. Raises RunNotFoundError, ServiceError for too few or too many tokens."""
        if not FEWEST_TOKENS <= tokens <= MOST_TOKENS:
            raise ServiceError(f"{tokens} tokens per text: use {FEWEST_TOKENS} to {MOST_TOKENS}.")
        if means_run(model_or_run):
            return Subject(self._runs.get(model_or_run).model, model_or_run, tokens)
        return Subject(model_or_run, "", tokens)

    def known(self, subject: Subject) -> pandas.DataFrame | None:
        """What `measure` returned before, or None."""
        return self._tables.get(subject)

    def measure(self, subject: Subject, on_step: OnStep | None = None) -> pandas.DataFrame:
        """One row per size of the cache: COLUMNS, on SEGMENTS segments of held-out built-in text.

        kept: ALL, WINDOW or MASS.  tokens: that the cache holds.  kl_mean: to full precision with the whole cache.
        on_step(done, total): called before each size; may raise to stop. Measured once. Do not modify the result.
        Raises ServiceError, ModelError, MissingBlockError.
        """
        found = self._tables.get(subject)
        if found is None:
            found = self._tables[subject] = self._measure(subject, on_step)
        return found

    def _measure(self, subject: Subject, on_step: OnStep | None) -> pandas.DataFrame:
        from abq_core.evaluation.kv_cost import kv_cost
        from abq_core.text.segments import recorded_segments

        self._models.check_simulated(subject.model, "The KV cache is simulated for models")
        full = self._registry.full(subject.model)
        tokens = min(subject.tokens, full.context)
        model = self._registry.streamed(subject.run) if subject.run else full
        ids, record = recorded_segments(BUILTIN_TEXT, full.tokenizer, SEGMENTS, tokens, 0, "evaluation")
        rows, sizes = [], _sizes(tokens)
        for done, (kept, size) in enumerate(sizes):
            if on_step is not None:
                on_step(done, len(sizes))
            scores = kv_cost(model, full, size, ids, record.unscored)
            held = tokens if size.budget is None else size.budget.tokens
            rows.append(
                [size.bits, kept, held, size.bytes_for(full, tokens), scores.kl_mean, scores.perplexity,
                 scores.perplexity_stderr, scores.same_top]
            )  # fmt: skip
        return pandas.DataFrame(rows, columns=COLUMNS)


def _sizes(tokens: int) -> "list[tuple[str, CacheSize]]":
    """Every size that is measured, with how it chooses the tokens that it holds."""
    from abq_core.evaluation.kv_cost import CacheSize
    from abq_core.models.attention.cache_budget import CacheBudget

    sizes = [(ALL, CacheSize(bits)) for bits in BITS]
    for kept in (WINDOW, MASS):
        for part in PARTS:
            budget = CacheBudget(tokens // part, by_mass=kept == MASS)
            sizes += [(kept, CacheSize(bits, budget)) for bits in BITS]
    return sizes
