"""The models that are loaded in this process: one copy of each, the least recently used leave first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import psutil
import torch

from abq_core.calibration.quantized_block import Engine
from abq_core.inference.runtime import quantized_model, rounded_model
from abq_core.mix import ModelPrecision
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.shape import model_shape
from abq_core.quantization.quant_linear import PackedLinear
from abq_core.spec import read_precision
from app import formatting
from app.runs.run_folder import BlockStore, RunFolder
from app.services.errors import ServiceError
from app.services.mixes import find_precision
from app.settings import Settings
from storage.runs import Runs

Key = tuple[str, str, str]  # model, "" or precision or run id, "full" or the engine
FULL_COLUMN = "full"
MAX_MODELS = 8


class ModelRegistry:
    """Loads on demand, one load at a time; handing out is thread-safe. Callers must not change what they get."""

    def __init__(
        self, settings: Settings, runs: Runs, max_models: int = MAX_MODELS, max_bytes: int | None = None
    ) -> None:
        self._settings = settings
        self._runs = runs
        self._max_models = max_models
        self._max_bytes = max_bytes or psutil.virtual_memory().total // 2
        self._loaded: OrderedDict[Key, tuple[LoadedModel, int]] = OrderedDict()
        self._lock = threading.RLock()
        torch.set_num_threads(settings.threads)

    def full(self, ref: str) -> LoadedModel:
        """The model as it is, in fp32."""
        return self._get((ref, "", "full"), lambda: self._load(ref))

    def rounded(self, ref: str, precision: ModelPrecision, engine: Engine) -> LoadedModel:
        """The model rounded to nearest, no calibration."""
        return self._get((ref, str(precision), engine), lambda: rounded_model(self.full(ref), precision, engine))

    def run(self, run_id: str, engine: Engine) -> LoadedModel:
        """A calibrated model. Raises RunNotFoundError, MissingBlockError."""
        run = self._runs.get(run_id)
        hashes = {block.block: block.sha256 for block in self._runs.blocks(run.id)}
        store = BlockStore(RunFolder(self._settings.runs_dir, run.id), hashes)
        precision = read_precision(run.spec)
        return self._get(
            (run.model, run.id, engine), lambda: quantized_model(self.full(run.model), precision, store, engine)
        )

    def column(self, column: str, ref: str) -> LoadedModel:
        """What a column names: "full", a run id, or a precision (rounded only). Quantized ones are packed."""
        if column == FULL_COLUMN:
            return self.full(ref)
        if column.startswith("r-"):
            return self.run(column, "packed")
        precision = find_precision(self._runs, column)
        return self.full(ref) if precision.is_full else self.rounded(ref, precision, "packed")

    def common_model(self, columns: Sequence[str], default: str) -> str:
        """The one model that these columns are of. Raises ServiceError where runs are of different models."""
        models = {self._runs.get(column).model for column in columns if column.startswith("r-")}
        if len(models) > 1:
            raise ServiceError(
                f"These runs are of different models ({', '.join(sorted(models))}); compare runs of one model."
            )
        return models.pop() if models else default

    def forget(self, run_id: str) -> None:
        """Let go of a run's models."""
        with self._lock:
            for key in [key for key in self._loaded if key[1] == run_id]:
                del self._loaded[key]

    def _load(self, ref: str) -> LoadedModel:
        """Load in fp32 after making room. Raises ServiceError where the memory that is free cannot hold it."""
        wanted = 4 * model_shape(ref).parameters
        self._evict(wanted)
        free = psutil.virtual_memory().available
        if wanted > free:
            raise ServiceError(
                f"{ref} takes {formatting.size(wanted)} of memory in fp32, and {formatting.size(free)} are free. Use a "
                "smaller model, or a machine with more memory."
            )
        return load_model(ref, device=self._settings.device)

    def _get(self, key: Key, load: Callable[[], LoadedModel]) -> LoadedModel:
        with self._lock:
            if key not in self._loaded:
                model = load()
                self._loaded[key] = (model, _resident_bytes(model))
            self._loaded.move_to_end(key)
            self._evict(keep=key)
            return self._loaded[key][0]

    def _evict(self, coming: int = 0, keep: Key | None = None) -> None:
        """Let the least recently used go until the budget holds what is left and `coming` bytes more."""
        while self._loaded and (
            len(self._loaded) > self._max_models
            or sum(size for _, size in self._loaded.values()) + coming > self._max_bytes
        ):
            oldest = next(iter(self._loaded))
            if oldest == keep:
                return
            del self._loaded[oldest]


def _resident_bytes(model: LoadedModel) -> int:
    tensors = [*model.model.parameters(), *model.model.buffers()]
    packed = [module.stored_bytes for module in model.model.modules() if isinstance(module, PackedLinear)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + sum(packed)
