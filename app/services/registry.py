"""Loaded models of this process: one copy of each, the least recently used evicted first."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import psutil
from cachetools import LRUCache

from abq_core.imports.spec import is_import
from abq_core.mix import ModelPrecision
from abq_core.spec import CalibrationSpec
from app import formatting
from app.runs.run_folder import BlockStore, RunFolder
from app.services.errors import ServiceError
from app.services.precisions import find_precision
from app.services.sources import Sources
from app.settings import Settings
from storage.run_ids import means_run
from storage.runs import Runs

if TYPE_CHECKING:  # torch takes seconds to import: it is imported with the first model
    from abq_core.calibration.quantized_block import Engine
    from abq_core.models.loading import LoadedModel

Key = tuple[str, str, str]  # model; "" or precision or run id; "full", the engine or "imported"

BUILTIN = "builtin"  # that of abq_core.models.reference, which imports transformers
FULL_COLUMN, IMPORTED = "full", "imported"
MAX_MODELS = 8


class _Resident(NamedTuple):
    """A loaded model. bytes: of its weights, without those that it shares with its full-precision model."""

    model: "LoadedModel"
    bytes: int


class ModelRegistry:
    """Loads models on demand, one at a time.

    Safe to call from several threads; callers must not modify the models.
    """

    def __init__(
        self,
        settings: Settings,
        runs: Runs,
        max_models: int = MAX_MODELS,
        max_bytes: int | None = None,
        sources: Sources | None = None,
    ) -> None:
        """max_bytes: of all loaded models together, by default half of the machine's memory.

        sources: the models that may be loaded, by default all.
        """
        self._settings = settings
        self._runs = runs
        self._sources = sources or Sources()
        self._max_models = max_models
        self._max_bytes = max_bytes or psutil.virtual_memory().total // 2
        # Unbounded: `_evict` makes room before a model is loaded; a bounded cache would evict after.
        self._loaded: LRUCache[Key, _Resident] = LRUCache(math.inf, getsizeof=lambda resident: resident.bytes)
        self._lock = threading.Lock()  # of `_loaded`
        self._loading = threading.RLock()  # one model is loaded at a time; it may load its full-precision model first
        self._threads_are_set = False

    def full(self, ref: str) -> "LoadedModel":
        """The model at full precision, computing in float32. Raises ModelError, ServiceError."""
        ref = self._sources.model(ref)
        return self._get((ref, "", FULL_COLUMN), lambda: self._load(ref))

    def stored_model(self, ref: str) -> str:
        """The reference under which measurements of a model are stored. Raises ModelError, ServiceError."""
        return self._sources.stored_model(ref)

    def rounded(self, ref: str, precision: ModelPrecision, engine: "Engine") -> "LoadedModel":
        """The model rounded to nearest, without calibration. Raises ModelError, ServiceError."""
        from abq_core.inference.runtime import rounded_model

        ref = self._sources.model(ref)
        return self._get((ref, str(precision), engine), lambda: rounded_model(self.full(ref), precision, engine))

    def run(self, run_id: str, engine: "Engine") -> "LoadedModel":
        """A calibrated model, or an imported one, which computes in float32 with both engines.

        Raises RunNotFoundError, MissingBlockError, ModelError, ServiceError."""
        from abq_core.imports.model import imported_model
        from abq_core.inference.runtime import quantized_model

        run = self._runs.get(run_id)
        if is_import(run.spec):
            return self._get(
                (run.model, run.id, IMPORTED), lambda: imported_model(self.full(run.model), self._store(run.id))
            )
        return self._get((run.model, run.id, engine), lambda: quantized_model(*self.parts(run.id), engine))

    def is_imported(self, column: str) -> bool:
        """Whether a column is the run of an import. Raises RunNotFoundError."""
        return means_run(column) and is_import(self._runs.get(column).spec)

    def streamed(self, run_id: str) -> "LoadedModel":
        """The simulated model of a run for one evaluation: its blocks are built one by one and not kept.

        Raises RunNotFoundError, ModelError, ServiceError; evaluating it raises MissingBlockError.
        """
        from abq_core.imports.model import streamed_import
        from abq_core.inference.runtime import streamed_model

        run = self._runs.get(run_id)
        if is_import(run.spec):
            return streamed_import(self.full(run.model), self._store(run.id))
        return streamed_model(*self.parts(run.id))

    def column(self, column: str, ref: str) -> "LoadedModel":
        """The model of a column: "full", a run id, or a precision (rounded to nearest).

        Quantized ones are packed.
        """
        if column == FULL_COLUMN:
            return self.full(ref)
        if means_run(column):
            return self.run(column, "packed")
        precision = find_precision(self._runs, column)
        return self.full(ref) if precision.is_full else self.rounded(ref, precision, "packed")

    def common_model(self, columns: Sequence[str], default: str) -> str:
        """The model that all runs among these columns share.

        Raises ServiceError if their models differ.
        """
        models = {self._runs.get(column).model for column in columns if means_run(column)}
        if len(models) > 1:
            raise ServiceError(
                f"These runs are of different models ({', '.join(sorted(models))}); compare runs of one model."
            )
        return models.pop() if models else default

    def parts(self, run_id: str) -> "tuple[LoadedModel, ModelPrecision, BlockStore]":
        """What a calibrated model is made of: the full-precision model whose blocks it rounds, precision, blocks.

        That model is rotated if the run is. Each call builds it again.

        Raises RunNotFoundError, ModelError, ServiceError.
        """
        from abq_core.calibration.rotation import starting_model

        run = self._runs.get(run_id)
        return *starting_model(self.full(run.model), CalibrationSpec.from_dict(run.spec)), self._store(run.id)

    def forget(self, run_id: str) -> None:
        """Evict the models of a run, also one that is being loaded."""
        with self._loading, self._lock:
            for key in [key for key in self._loaded if key[1] == run_id]:
                del self._loaded[key]

    def _store(self, run_id: str) -> BlockStore:
        hashes = {block.block: block.sha256 for block in self._runs.blocks(run_id)}
        return BlockStore(RunFolder(self._settings.runs_dir, run_id), hashes)

    def _load(self, ref: str) -> "LoadedModel":
        """Load a model after making room.

        Raises ServiceError if the free memory cannot hold the model, or two of its blocks if it stays in its files.
        """
        from abq_core.models.loading import load_model
        from abq_core.models.shape import model_shape

        shape = model_shape(ref)
        largest = max(sum(n * k for n, k in shape.block_linears(index).values()) for index in range(shape.blocks))
        is_mapped = shape.is_mapped and self._settings.device == "cpu"
        needed = 4 * (2 * largest if is_mapped else shape.parameters)
        with self._lock:
            self._evict(needed)
        free = psutil.virtual_memory().available
        if needed > free:
            raise ServiceError(
                f"{ref} takes {formatting.size(needed)} of memory in fp32, and {formatting.size(free)} are free. Use a "
                "smaller model, or a machine with more memory."
            )
        return load_model(ref, device=self._settings.device)

    def _get(self, key: Key, load: "Callable[[], LoadedModel]") -> "LoadedModel":
        if (found := self._find(key)) is not None:  # without waiting for a model that another thread loads
            return found
        with self._loading:
            if (found := self._find(key)) is not None:
                return found
            from abq_core.models.mapped.freed_memory import return_freed_memory

            self._set_threads()
            model = load()
            return_freed_memory()
            own = _own_bytes(model, self._find((key[0], "", FULL_COLUMN)))
            with self._lock:
                self._evict(own, coming_models=1)
                self._loaded[key] = _Resident(model, own)
            return model

    def _find(self, key: Key) -> "LoadedModel | None":
        with self._lock:
            resident = self._loaded.get(key)
        return None if resident is None else resident.model

    def _evict(self, coming_bytes: int, coming_models: int = 0) -> None:
        """Evict the least recently used models until a new one fits within the limits. The caller holds the lock."""
        while self._loaded and (
            len(self._loaded) + coming_models > self._max_models
            or self._loaded.currsize + coming_bytes > self._max_bytes
        ):
            self._loaded.popitem()

    def _set_threads(self) -> None:
        """Give torch this process's number of threads before the first model runs."""
        if not self._threads_are_set:
            import torch

            torch.set_num_threads(self._settings.threads)
            self._threads_are_set = True


def _own_bytes(model: "LoadedModel", full: "LoadedModel | None") -> int:
    """Bytes of a model's weights in memory, without those of its full-precision model and those in mapped files."""
    from abq_core.quantization.lm_head import PackedHead
    from abq_core.quantization.quant_linear import PackedLinear
    from abq_core.quantization.tables import PackedEmbedding

    shared = set() if full is None else {id(parameter) for parameter in full.model.parameters()}
    parameters = [parameter for parameter in model.model.parameters() if id(parameter) not in shared]
    if model.weights is not None:
        parameters = [parameter for parameter in parameters if not model.weights.holds(parameter)]
    packed = [m.packed for m in model.model.modules() if isinstance(m, PackedLinear | PackedEmbedding | PackedHead)]
    weights = {id(weight): weight.nbytes for weight in packed}  # tied tables count once
    return sum(tensor.nbytes for tensor in (*parameters, *model.model.buffers())) + sum(weights.values())
