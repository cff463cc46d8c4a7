"""Models: known names, sizes, calibration costs, and the effect of rounding."""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas
from cachetools import LRUCache, cached

from abq_core.mix import ModelPrecision, resolve_tables
from abq_core.precision import FULL_BITS, suffix
from abq_core.spec import CalibrationSpec
from abq_core.text.sources import BUILTIN_TEXT
from app import formatting
from app.measured import Measured
from app.services.errors import ServiceError
from app.services.precisions import find_precision
from app.services.registry import BUILTIN, ModelRegistry
from app.services.sources import Sources
from app.services.speed.pace import Pace
from app.services.stored import Storage
from app.settings import Settings

if TYPE_CHECKING:  # torch takes seconds to import: the commands that need no model start without it
    from torch import Tensor

    from abq_core.evaluation.perplexity import Scores
    from abq_core.models.gguf.weights import StoredWeights
    from abq_core.models.loading import LoadedModel
    from abq_core.models.shape import ModelShape
    from abq_core.planning.estimate import Estimate
    from abq_core.text.records import TextRecord

MAX_RECENT_RUNS = 500  # runs whose models are listed
MAX_EXPLORED = 8  # explored pairs of model and precision that stay in memory
MAX_COSTS = 64  # measured costs of tables that stay in memory
TABLE_BITS = (FULL_BITS, 8, 6, 4)  # of embedding and LM head, from which the page and a budget choose
COST_SEGMENTS, COST_SEQ_LEN = 4, 128  # of held-out built-in text, on which they are measured
MOST_SIMULATED = 500_000_000  # parameters of a model that is simulated while a visitor waits


class ModelService:
    """Sizes, cost estimates and rounding effects of models, without a calibration."""

    def __init__(self, settings: Settings, storage: Storage, registry: ModelRegistry, sources: Sources) -> None:
        self._settings, self._runs, self._registry, self._sources = settings, storage.runs, registry, sources
        self._pace = Pace(storage, lambda spec: self._estimate(spec).seconds)
        # Single flight: concurrent calls for the same model and precision wait for one computation.
        single_flight = cached(LRUCache(MAX_EXPLORED), self._explore_key, condition=threading.Condition())
        self._explore_once = single_flight(self._explore)
        self._costs: Measured[tuple[str, str], Scores] = Measured(MAX_COSTS)

    def names(self) -> list[str]:
        """The built-in model, then the models of the most recent runs, newest first."""
        used = [run.model for run in self._runs.list(limit=MAX_RECENT_RUNS) if run.model != BUILTIN]
        return [BUILTIN, *dict.fromkeys(used)]

    def shape(self, ref: str) -> "ModelShape":
        """Sizes of a model, read from its config alone. Raises ModelError, ServiceError."""
        from abq_core.models.shape import model_shape

        return model_shape(self._sources.model(ref))

    def stored_weights(self, ref: str) -> "StoredWeights | None":
        """How a GGUF file stores its weights; None for other models. Raises ModelError, ServiceError."""
        from abq_core.models.reference import stored_weights

        return stored_weights(self._sources.model(ref))

    def can_chat(self, ref: str) -> bool:
        """Whether the model has a chat template, read from its files without its weights.

        Raises ModelError, ServiceError.
        """
        from abq_core.models.reference import has_chat_template

        return has_chat_template(self._sources.model(ref))

    def precision(self, text: str | ModelPrecision) -> ModelPrecision:
        """Parse a precision, the JSON of a mix, or the name of a stored run's mix.

        Raises PrecisionError.
        """
        return find_precision(self._runs, text) if isinstance(text, str) else text

    def resolved(self, ref: str, precision: ModelPrecision) -> ModelPrecision:
        """The precision with the bits of LM head and embedding that hold for this model.

        W4A8h8 becomes W4A8h8e8 if the two are one table. Raises ModelError, PrecisionError, ServiceError.
        """
        if precision.head_bits == precision.embedding_bits:
            return precision
        return resolve_tables(precision, self.shape(ref).tied)

    def estimate(self, ref: str, precision: str | ModelPrecision) -> "Estimate":
        """Size, memory and time of a default calibration, from shapes alone.

        Raises ModelError, PrecisionError.
        """
        from abq_core.planning.cost import Work
        from abq_core.planning.estimate import estimate

        device = self._settings.device
        return estimate(self.shape(ref), self.precision(precision), Work(device=device, home=device))

    def estimate_calibration(self, spec: CalibrationSpec) -> "Estimate":
        """Size, memory and time of this calibration. Raises ModelError.

        From shapes, and the pace of the calibrations that this installation has finished.
        """
        return replace(self._estimate(spec), pace=self._pace.ratio(spec.device))

    def _estimate(self, spec: CalibrationSpec) -> "Estimate":
        """The estimate from shapes alone."""
        from abq_core.planning.cost import Work
        from abq_core.planning.estimate import estimate

        return estimate(self.shape(spec.model), spec.precision, Work.of(spec, home=self._settings.device))

    def explore(self, ref: str, precision: str | ModelPrecision) -> dict[str, pandas.DataFrame]:
        """DataFrames of what rounding to this precision does to the weights.

        Cached: do not modify them.
        Raises ModelError, PrecisionError, ServiceError.
        """
        return self._explore_once(ref, self.precision(precision))

    def table_cost(self, ref: str, precision: ModelPrecision) -> "Scores":
        """KL to full precision of the embedding and LM head of `precision`, with all else in full precision.

        Measured on COST_SEGMENTS segments of held-out text, once. Raises ModelError, PrecisionError, ServiceError.
        """
        from abq_core.evaluation.table_cost import table_cost

        found = self.known_table_cost(ref, precision)
        if found is None:
            base = self._registry.full(ref)
            text, record = cost_segments(base)
            found = self._costs[ref, _tables_of(precision)] = table_cost(base, precision, text, record.unscored)
        return found

    def known_table_cost(self, ref: str, precision: ModelPrecision) -> "Scores | None":
        """What `table_cost` measured before, or None."""
        return self._costs.get((ref, _tables_of(precision)))

    def check_simulated(self, ref: str, what: str) -> None:
        """Refuse a model that is too large to be simulated while a visitor waits. Raises ServiceError, ModelError.

        what: the beginning of the sentence that names the limit, such as "Formats are simulated for models".
        """
        if (parameters := self.shape(ref).parameters) > MOST_SIMULATED:
            raise ServiceError(
                f"This model has {formatting.count(parameters)} parameters. {what} of at most "
                f"{formatting.count(MOST_SIMULATED)} parameters."
            )

    def _explore(self, ref: str, precision: ModelPrecision) -> dict[str, pandas.DataFrame]:
        from abq_core.analysis.explore import explore

        return explore(self._registry.full(ref), precision)

    @staticmethod
    def _explore_key(ref: str, precision: ModelPrecision) -> tuple[str, str]:
        return ref, str(precision)


def cost_segments(base: "LoadedModel") -> "tuple[Tensor, TextRecord]":
    """The held-out text on which costs are measured: (COST_SEGMENTS, COST_SEQ_LEN or the context) int64."""
    from abq_core.text.segments import recorded_segments

    seq_len = min(COST_SEQ_LEN, base.context)
    return recorded_segments(BUILTIN_TEXT, base.tokenizer, COST_SEGMENTS, seq_len, 0, "evaluation")


def _tables_of(precision: ModelPrecision) -> str:
    """The parts of a precision that the cost of its tables depends on."""
    return suffix(None, precision.head_bits, precision.embedding_bits)
