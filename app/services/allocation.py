"""Mixed precision under a budget, from sensitivities measured once and stored as files."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas

from abq_core.imports.spec import METHOD as IMPORTED
from abq_core.mix import MixError, ModelPrecision
from abq_core.precision import FULL_BITS, Precision, PrecisionError
from abq_core.spec import read_precision
from abq_core.text.sources import BUILTIN_TEXT
from app.files import write_atomically
from app.services.local_path import local_path
from app.services.mix_checks import MixCheck, check_mixes
from app.services.models import TABLE_BITS, ModelService
from app.services.registry import ModelRegistry
from app.services.runs import RunService
from app.services.sources import Sources
from app.settings import Settings
from storage.errors import RunNotFoundError

if TYPE_CHECKING:
    from abq_core.planning.allocate import Allocation
    from abq_core.planning.sensitivity import Sensitivity

FOLDER = "sensitivity"
DEFAULT_SEQ_LEN = 256
PREDICTION_COLUMNS = ["run", "precision", "method", "stored_bits", "predicted_kl", "kl_mean", "perplexity"]

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class SensitivityText:
    """The calibration text that sensitivities are measured on.

    seq_len: tokens per segment; None for DEFAULT_SEQ_LEN, or the model's context if that is shorter.
    """

    data: str = BUILTIN_TEXT
    segments: int = 4
    seq_len: int | None = None
    seed: int = 0


class AllocationService:
    """Chooses a precision for every linear of a model."""

    def __init__(
        self, settings: Settings, runs: RunService, registry: ModelRegistry, models: ModelService, sources: Sources
    ) -> None:
        self._sources, self._models = sources, models
        self._folder, self._runs, self._registry = settings.data_dir / FOLDER, runs, registry

    def allocate(
        self,
        ref: str,
        candidates: Sequence[str],
        stored_bits: float | None = None,
        stored_bytes: int | None = None,
        text: SensitivityText | None = None,
        on_step: OnStep | None = None,
        bit_operations: float | None = None,
    ) -> "Allocation":
        """Choose a precision for every linear within one budget of memory.

        Measures the sensitivities that are not stored yet.
        stored_bits: mean bits per weight.  stored_bytes: bytes of the blocks' linears.  on_step(done, total): called
        while measuring; may raise to stop.  bit_operations: maximum of the mean of weight planes times activation
        bits per weight; needed for candidates that differ in activation bits.
        Raises BudgetError, PrecisionError, ModelError, DataError, ServiceError.
        """
        from abq_core.planning.allocate import allocate, check_request

        precisions = list(dict.fromkeys(Precision.parse(candidate) for candidate in candidates))
        check_request(precisions, stored_bits, stored_bytes, bit_operations)
        linears = list(dict.fromkeys(precision.with_tables(None, None) for precision in precisions))
        measured = self._measure(self._sources.stored_model(ref), linears, text or SensitivityText(), on_step)
        chosen = allocate(measured, stored_bits=stored_bits, stored_bytes=stored_bytes, bit_operations=bit_operations)
        return chosen.with_tables(precisions[0].head_bits, precisions[0].embedding_bits)

    def allocate_model(
        self,
        ref: str,
        candidates: Sequence[str],
        bits_per_parameter: float,
        text: SensitivityText | None = None,
        on_step: OnStep | None = None,
        bit_operations: float | None = None,
    ) -> "Allocation":
        """Choose a precision for every linear, and the bits of embedding and LM head, within the size of a model.

        For each of TABLE_BITS the linears get what remains; the least sum of predicted KL wins. The KL of the tables is
        measured on held-out text. bits_per_parameter: of the whole model, norms and scales included. Otherwise as
        `allocate`; candidates name no bits of embedding and LM head.
        """
        from abq_core.planning.allocate import BudgetError, allocate, check_request
        from abq_core.planning.size import model_size

        precisions = list(dict.fromkeys(Precision.parse(candidate) for candidate in candidates))
        check_request(precisions, bits_per_parameter, bit_operations=bit_operations)
        if precisions[0] != precisions[0].with_tables(None, None):
            raise BudgetError(f"{precisions[0]} fixes bits that this budget chooses: leave out h and e.")
        model = self._sources.stored_model(ref)
        measured = self._measure(model, precisions, text or SensitivityText(), on_step)
        shape = self._models.shape(model)
        allocations: list[Allocation] = []
        for bits in TABLE_BITS:
            tables = None if bits == FULL_BITS else bits
            rounded = precisions[0].with_tables(tables, tables)
            size = model_size(shape, rounded)
            remaining = int(bits_per_parameter * size.parameters / 8) - (size.total - size.linears)
            with contextlib.suppress(BudgetError):  # too small for the linears beside these tables
                chosen = allocate(measured, stored_bytes=max(remaining, 1), bit_operations=bit_operations)
                kl = 0.0 if tables is None else self._models.table_cost(model, rounded).kl_mean
                allocations.append(chosen.with_tables(tables, tables, kl))
        if not allocations:
            raise BudgetError(
                f"The budget of {bits_per_parameter:g} bits per parameter{_also(bit_operations)} cannot be met with "
                f"these candidates, even with {TABLE_BITS[-1]} bits for embedding and LM head. Raise the budget, or "
                "add a candidate with fewer bits."
            )
        return min(allocations, key=lambda one: one.predicted_kl)

    def predictions(self, model: str) -> pandas.DataFrame:
        """Predicted and measured KL to full precision of the model's evaluated runs.

        Only runs all of whose linears have a stored sensitivity at their precision.
        """
        from abq_core.planning.allocate import predicted_kl

        stored = _stored(self._folder, model)
        rows = []
        for row, precision in self._evaluated(model):
            try:
                predicted = predicted_kl(stored, precision)
            except MixError:  # the model has changed since this run
                continue
            if predicted is not None:
                rows.append({**row, "predicted_kl": predicted})
        return pandas.DataFrame(rows, columns=PREDICTION_COLUMNS)

    def mix_checks(self, model: str) -> list[MixCheck]:
        """Each evaluated mix of the model beside the best uniform precision of its size."""
        return check_mixes(self._evaluated(model))

    def _evaluated(self, model: str) -> list[tuple[dict[str, Any], ModelPrecision]]:
        """The model's evaluated runs as rows of `newest_frame`, with their precisions; no imports."""
        frame = self._runs.newest_frame()
        frame = frame[frame["model"].eq(model) & frame["run"].ne("") & frame["kl_mean"].notna()]
        found = []
        for row in frame[frame["method"].ne(IMPORTED)].to_dict("records"):  # names of other formats are no precisions
            with contextlib.suppress(RunNotFoundError, PrecisionError):  # deleted just now; of a later version
                found.append((row, read_precision(self._runs.get(row["run"]).spec)))
        return found

    def _measure(
        self, model: str, candidates: Sequence[Precision], text: SensitivityText, on_step: OnStep | None
    ) -> "list[Sensitivity]":
        """Sensitivity of every linear at every candidate, read from files or measured and stored."""
        from abq_core.models.reference import fingerprint
        from abq_core.planning.sensitivity import sensitivities
        from abq_core.text.segments import recorded_segments

        base = self._registry.full(model)
        seq_len = min(DEFAULT_SEQ_LEN, base.context) if text.seq_len is None else text.seq_len
        self._sources.check_text(text.data)
        data = local_path(text.data)
        ids, record = recorded_segments(data, base.tokenizer, text.segments, seq_len, text.seed, "calibration")
        source = {"model": model, "fingerprint": fingerprint(model), "text": record.sha256}
        paths = {candidate: self._folder / f"{_key(source, candidate)}.json" for candidate in candidates}
        missing = [candidate for candidate, path in paths.items() if not path.is_file()]
        if missing:
            found = sensitivities(base, missing, ids, on_step, record.unscored)
            for candidate in missing:
                measured = [one for one in found if one.precision == candidate]
                write_atomically(paths[candidate], json.dumps(source | _rows(candidate, measured), indent=1).encode())
        return [one for path in paths.values() for one in _read(path)]


def _also(bit_operations: float | None) -> str:
    return "" if bit_operations is None else f" and {bit_operations:g} bit operations per weight"


def _key(source: dict[str, str], candidate: Precision) -> str:
    """A file name from a hash of everything that the measurement depends on."""
    content = json.dumps([source["fingerprint"], source["text"], str(candidate)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _rows(candidate: Precision, measured: "Iterable[Sensitivity]") -> dict[str, Any]:
    linears = [[one.block, one.name, one.kl, one.rows, one.columns] for one in measured]
    return {"precision": str(candidate), "linears": linears}


def _read(path: Path) -> "list[Sensitivity]":
    from abq_core.planning.sensitivity import Sensitivity

    content = json.loads(path.read_text("utf-8"))
    precision = Precision.parse(content["precision"])
    return [Sensitivity(block, name, precision, *rest) for block, name, *rest in content["linears"]]


def _stored(folder: Path, model: str) -> "list[Sensitivity]":
    """All stored sensitivities of a model; of several measurements of one precision (on other texts) the newest."""
    newest: dict[str, list[Sensitivity]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        content = json.loads(path.read_text("utf-8"))
        if content["model"] == model:
            newest[content["precision"]] = _read(path)
    return [one for measured in newest.values() for one in measured]
