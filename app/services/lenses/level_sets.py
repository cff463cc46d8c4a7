"""Level sets of one linear: error and occupancy of every format, and what each costs the model by simulation."""

import threading
from typing import TYPE_CHECKING

import pandas
from cachetools import LRUCache, cached

from app.measured import Measured
from app.services.lenses.linears import linear_weight
from app.services.models import ModelService, cost_segments
from app.services.registry import ModelRegistry

if TYPE_CHECKING:
    from abq_core.evaluation.perplexity import Scores
    from abq_core.quantization.level_sets import Format

MAX_COMPARED = 16  # compared linears that stay in memory
MAX_COSTS = 128
Frames = dict[str, pandas.DataFrame]


class LevelSetService:
    """Compares formats of the weights."""

    def __init__(self, registry: ModelRegistry, models: ModelService) -> None:
        self._registry, self._models = registry, models
        self._costs: Measured[tuple[str, Format, int | None], Scores] = Measured(MAX_COSTS)
        # Single flight: concurrent calls for the same linear wait for one computation.
        self._compare_once = cached(LRUCache(MAX_COMPARED), condition=threading.Condition())(self._compare)

    def formats(self, own: str = "") -> "list[Format]":
        """The formats that are compared. own: levels as typed. Raises LevelSetError."""
        from abq_core.quantization.level_sets import formats, read_levels

        return formats(read_levels(own))

    def compare(self, ref: str, precision: str, block: int, tensor: str, own: str = "") -> Frames:
        """The frames of `level_set_frames` of a linear, with the group size of `precision`.

        Cached: do not modify them. Raises ModelError, PrecisionError, LevelSetError, ServiceError.
        """
        return self._compare_once(ref, self.group_size(precision, block, tensor), block, tensor, own)

    def group_size(self, precision: str, block: int, tensor: str) -> int | None:
        """The group size of a linear at this precision. Raises PrecisionError."""
        return self._models.precision(precision).of_linear(block, tensor).group_size

    def cost(self, ref: str, one: "Format", group_size: int | None) -> "Scores":
        """Perplexity and KL of the model with all linears in this format, simulated.

        Measured on COST_SEGMENTS segments of held-out text, once. Raises ModelError, ServiceError.
        """
        from abq_core.evaluation.level_set_cost import level_set_cost

        found = self.known_cost(ref, one, group_size)
        if found is None:
            self._models.check_simulated(ref, "The figure works for any model; formats are simulated for models")
            base = self._registry.full(ref)
            text, record = cost_segments(base)
            found = self._costs[ref, one, group_size] = level_set_cost(base, one, group_size, text, record.unscored)
        return found

    def known_cost(self, ref: str, one: "Format", group_size: int | None) -> "Scores | None":
        """What `cost` measured before, or None."""
        return self._costs.get((ref, one, group_size))

    def _compare(self, ref: str, group_size: int | None, block: int, tensor: str, own: str) -> Frames:
        from abq_core.analysis.level_sets import level_set_frames

        return level_set_frames(linear_weight(self._registry, ref, block, tensor), self.formats(own), group_size)
