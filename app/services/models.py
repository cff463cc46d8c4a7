"""Models: known names, sizes, calibration costs, and the effect of rounding."""

import threading
from typing import TYPE_CHECKING

import pandas
from cachetools import LRUCache, cached

from abq_core.mix import ModelPrecision
from abq_core.spec import CalibrationSpec
from app.services.precisions import find_precision
from app.services.registry import BUILTIN, ModelRegistry
from app.services.sources import Sources
from app.settings import Settings
from storage.runs import Runs

if TYPE_CHECKING:  # torch takes seconds to import: the commands that need no model start without it
    from abq_core.models.shape import ModelShape
    from abq_core.planning.estimate import Estimate

MAX_RECENT_RUNS = 500  # runs whose models are listed
MAX_EXPLORED = 8  # explored pairs of model and precision that stay in memory


class ModelService:
    """Sizes, cost estimates and rounding effects of models, without a calibration."""

    def __init__(self, settings: Settings, runs: Runs, registry: ModelRegistry, sources: Sources) -> None:
        self._settings, self._runs, self._registry, self._sources = settings, runs, registry, sources
        # Single flight: concurrent calls for the same model and precision wait for one computation.
        single_flight = cached(LRUCache(MAX_EXPLORED), self._explore_key, condition=threading.Condition())
        self._explore_once = single_flight(self._explore)

    def names(self) -> list[str]:
        """The built-in model, then the models of the most recent runs, newest first."""
        used = [run.model for run in self._runs.list(limit=MAX_RECENT_RUNS) if run.model != BUILTIN]
        return [BUILTIN, *dict.fromkeys(used)]

    def shape(self, ref: str) -> "ModelShape":
        """Sizes of a model, read from its config alone. Raises ModelError, ServiceError."""
        from abq_core.models.shape import model_shape

        return model_shape(self._sources.model(ref))

    def precision(self, text: str | ModelPrecision) -> ModelPrecision:
        """Parse a precision, the JSON of a mix, or the name of a stored run's mix.

        Raises PrecisionError.
        """
        return find_precision(self._runs, text) if isinstance(text, str) else text

    def estimate(self, ref: str, precision: str | ModelPrecision) -> "Estimate":
        """Size, memory and time of a default calibration, from shapes alone.

        Raises ModelError, PrecisionError.
        """
        from abq_core.planning.cost import Work
        from abq_core.planning.estimate import estimate

        device = self._settings.device
        return estimate(self.shape(ref), self.precision(precision), Work(device=device, home=device))

    def estimate_calibration(self, spec: CalibrationSpec) -> "Estimate":
        """Size, memory and time of this calibration, from shapes alone. Raises ModelError."""
        from abq_core.planning.cost import Work
        from abq_core.planning.estimate import estimate

        return estimate(self.shape(spec.model), spec.precision, Work.of(spec, home=self._settings.device))

    def explore(self, ref: str, precision: str | ModelPrecision) -> dict[str, pandas.DataFrame]:
        """DataFrames of what rounding to this precision does to the weights.

        Cached: do not modify them.
        Raises ModelError, PrecisionError, ServiceError.
        """
        return self._explore_once(ref, self.precision(precision))

    def _explore(self, ref: str, precision: ModelPrecision) -> dict[str, pandas.DataFrame]:
        from abq_core.analysis.explore import explore

        return explore(self._registry.full(ref), precision)

    @staticmethod
    def _explore_key(ref: str, precision: ModelPrecision) -> tuple[str, str]:
        return ref, str(precision)
