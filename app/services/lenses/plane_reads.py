"""A run read at fewer bits, by its highest bit planes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachetools import LRUCache

from abq_core.imports.spec import is_import
from abq_core.precision import Precision
from abq_core.spec import read_precision
from abq_core.text.sources import BUILTIN_TEXT
from app import formatting
from app.services.errors import ServiceError
from app.services.models import COST_SEGMENTS, COST_SEQ_LEN, ModelService
from app.services.registry import ModelRegistry
from storage.runs import Runs

if TYPE_CHECKING:
    from abq_core.evaluation.plane_cost import PlaneRead

MAX_READS = 64  # that stay in memory
MOST_PARAMETERS = 500_000_000  # of the model; each width is simulated twice
NEW_TOKENS = 24


class PlaneReadService:
    """Reads runs at every number of planes."""

    def __init__(self, registry: ModelRegistry, models: ModelService, runs: Runs) -> None:
        self._registry, self._models, self._runs = registry, models, runs
        self._reads: LRUCache[tuple[str, int, str], PlaneRead] = LRUCache(MAX_READS)

    def widths(self, run_id: str) -> Sequence[int]:
        """The numbers of planes at which a run can be read, most first.

        Raises ServiceError for a run that has none, RunNotFoundError.
        """
        from abq_core.quantization.plane_reading import FEWEST_PLANES, fewer_planes

        run = self._runs.get(run_id)
        precision = None if is_import(run.spec) else read_precision(run.spec)
        widths = fewer_planes(precision) if isinstance(precision, Precision) else range(0)
        if not widths:
            raise ServiceError(
                f"Run {run_id} ({run.precision}) cannot be read at fewer bits. Take a run with one precision for all "
                f"linears, more than {FEWEST_PLANES} bits and no star, such as W8A8."
            )
        if (parameters := self._models.shape(run.model).parameters) > MOST_PARAMETERS:
            raise ServiceError(
                f"This model has {formatting.count(parameters)} parameters. Runs of at most "
                f"{formatting.count(MOST_PARAMETERS)} are read at fewer bits."
            )
        return widths

    def read(self, run_id: str, planes: int, prompt: str) -> "PlaneRead":
        """The run at so many planes: scores on COST_SEGMENTS segments of held-out text, and the prompt continued.

        Measured once. Raises ServiceError, ModelError, MissingBlockError, PromptError.
        """
        from abq_core.evaluation.plane_cost import plane_read
        from abq_core.text.segments import recorded_segments

        widths = self.widths(run_id)
        if planes not in widths:
            raise ServiceError(f"{planes} planes: run {run_id} can be read at {widths[-1]} to {widths[0]}.")
        found = self.known(run_id, planes, prompt)
        if found is None:
            base, precision, store = self._registry.parts(run_id)
            assert isinstance(precision, Precision)
            seq_len = min(COST_SEQ_LEN, base.context)
            ids, record = recorded_segments(BUILTIN_TEXT, base.tokenizer, COST_SEGMENTS, seq_len, 0, "evaluation")
            found = plane_read(base, precision, store, planes, ids, record.unscored, prompt, NEW_TOKENS)
            self._reads[run_id, planes, prompt] = found
        return found

    def bits_per_parameter(self, run_id: str, precision: Precision) -> float:
        """Bits per parameter of the run's whole model at the precision of a read."""
        return self._models.estimate(self._runs.get(run_id).model, precision).bits_per_parameter

    def known(self, run_id: str, planes: int, prompt: str) -> "PlaneRead | None":
        """What `read` measured before, or None."""
        return self._reads.get((run_id, planes, prompt))
