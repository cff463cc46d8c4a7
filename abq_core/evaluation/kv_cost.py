"""The cost of a smaller KV cache: fewer bits for K and V, or fewer tokens, with all else unchanged."""

from dataclasses import dataclass

from torch import Tensor, nn

from abq_core.evaluation.perplexity import Scores, evaluate
from abq_core.models.architectures import blocks_of
from abq_core.models.attention.cache_budget import CacheBudget
from abq_core.models.attention.function import set_cache_budget, set_kv_bits
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.changed_blocks import with_changed_blocks
from abq_core.models.loading import LoadedModel
from abq_core.precision import FULL_BITS
from kernels.kv_codes import KvCodes


@dataclass(frozen=True)
class CacheSize:
    """A size of the KV cache. bits: of K and V, 1..8, or 16.  budget: None for all tokens."""

    bits: int
    budget: CacheBudget | None = None

    def bytes_for(self, model: LoadedModel, tokens: int) -> int:
        """Bytes of the cache after a text of `tokens` tokens.

        Two per value at 16 bits; otherwise as the CPU engine stores codes, scales and zero points.
        """
        layout, blocks = HeadLayout.of(model.model.config), len(blocks_of(model.model))
        held = tokens if self.budget is None else min(tokens, self.budget.tokens)
        if self.bits == FULL_BITS:
            return blocks * 2 * layout.kv_heads * layout.head_dim * held * 2
        return blocks * KvCodes(layout.kv_heads, held, layout.head_dim, self.bits).nbytes


def kv_cost(model: LoadedModel, full: LoadedModel, size: CacheSize, ids: Tensor, unscored: int = 0) -> Scores:
    """Score `model` with a KV cache of this size, against `full` with all of it, on ids (segments, tokens).

    model: at full precision, or a simulated run of `full`, whose own bits of K and V do not count.  unscored: as for
    `evaluate`. Raises EvaluationError, AttentionError.
    """

    def change(block: nn.Module) -> None:
        set_kv_bits(block, None if size.bits == FULL_BITS else size.bits)
        set_cache_budget(block, size.budget)

    return evaluate(with_changed_blocks(model, change), full, ids, unscored=unscored)
