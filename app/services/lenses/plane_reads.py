"""A run read at fewer bits, by its highest bit planes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from abq_core.imports.spec import is_import
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec, read_precision
from app.measured import Measured
from app.services.errors import ServiceError
from app.services.models import ModelService, cost_segments
from app.services.registry import ModelRegistry
from storage.runs import Runs

if TYPE_CHECKING:
    from abq_core.evaluation.plane_cost import Continuation, PlaneScores

MAX_READS = 64  # that stay in memory
NEW_TOKENS = 24


@dataclass(frozen=True)
class PlaneRead:
    """A run read at some of its bit planes. bits_per_parameter: of the whole model."""

    at: "PlaneScores"
    written: "Continuation"
    bits_per_parameter: float

    def to_dict(self) -> dict[str, object]:
        """The numbers and the text, ready for JSON."""
        names = ("perplexity", "perplexity_stderr", "kl_mean", "same_top")
        return {
            "planes": self.at.planes,
            "precision": str(self.at.precision),
            "bits_per_parameter": self.bits_per_parameter,
            "weight_bytes": self.at.weight_bytes,
            **{name: getattr(self.at.scores, name) for name in names},
            **{f"rounded_{name}": getattr(self.at.rounded, name) for name in names},
            "text": self.written.text,
            "tokens_per_second": self.written.tokens_per_second,
        }


class PlaneReadService:
    """Reads runs at every number of planes."""

    def __init__(self, registry: ModelRegistry, models: ModelService, runs: Runs) -> None:
        self._registry, self._models, self._runs = registry, models, runs
        self._scores: Measured[tuple[str, int], PlaneScores] = Measured(MAX_READS)
        self._texts: Measured[tuple[str, int, str], Continuation] = Measured(MAX_READS)

    def counts(self, run_id: str) -> Sequence[int]:
        """The numbers of planes at which a run can be read, most first.

        Raises ServiceError for a run that has none, RunNotFoundError.
        """
        from abq_core.quantization.plane_reading import FEWEST_PLANES, fewer_planes

        run = self._runs.get(run_id)
        precision = None if is_import(run.spec) else read_precision(run.spec)
        counts = fewer_planes(precision) if isinstance(precision, Precision) else range(0)
        if not counts:
            raise ServiceError(
                f"Run {run_id} ({run.precision}) cannot be read at fewer bits. Take a run with one precision for all "
                f"linears, more than {FEWEST_PLANES} bits and no star, such as W8A8."
            )
        self._models.check_simulated(run.model, "Runs can be read at fewer bits for models")
        return counts

    def read(self, run_id: str, planes: int, prompt: str) -> PlaneRead:
        """Read a run at `planes` bit planes: scores on COST_SEGMENTS segments of held-out text, the prompt continued.

        Both are measured once. Raises ServiceError, ModelError, MissingBlockError, PromptError.
        """
        from abq_core.evaluation.plane_cost import plane_continuation, plane_scores

        counts = self.counts(run_id)
        if planes not in counts:
            raise ServiceError(f"{planes} planes: run {run_id} can be read at {counts[-1]} to {counts[0]}.")
        base, precision, store = self._registry.parts(run_id)
        assert isinstance(precision, Precision)
        at, written = self._scores.get((run_id, planes)), self._texts.get((run_id, planes, prompt))
        if written is None:
            written = plane_continuation(base, precision, store, planes, prompt, NEW_TOKENS)
            self._texts[run_id, planes, prompt] = written
        if at is None:
            ids, record = cost_segments(base)
            at = self._scores[run_id, planes] = plane_scores(base, precision, store, planes, ids, record.unscored)
        return self._read(run_id, at, written)

    def known(self, run_id: str, planes: int, prompt: str) -> PlaneRead | None:
        """What `read` measured before, or None."""
        at, written = self._scores.get((run_id, planes)), self._texts.get((run_id, planes, prompt))
        return None if at is None or written is None else self._read(run_id, at, written)

    def _read(self, run_id: str, at: "PlaneScores", written: "Continuation") -> PlaneRead:
        spec = CalibrationSpec.from_dict(self._runs.get(run_id).spec)
        estimate = self._models.estimate_calibration(replace(spec, precision=at.precision))
        return PlaneRead(at, written, estimate.bits_per_parameter)
