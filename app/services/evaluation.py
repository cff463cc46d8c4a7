"""Perplexity and KL divergence to full precision, measured and stored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import pandas

from abq_core.imports.spec import ImportSpec, is_import
from abq_core.spec import EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN, CalibrationSpec
from abq_core.text.documents import Split
from abq_core.text.records import Protocol, TextRecord
from abq_core.text.sources import BUILTIN_TEXT, is_name, read_text
from app.clock import now
from app.runs.run_folder import RunFolderError
from app.services.dataframes import BUCKET_COLUMNS, protocol, text_label
from app.services.errors import ServiceError
from app.services.local_path import local_path
from app.services.registry import ModelRegistry
from app.services.runs import RunService
from app.services.sources import Sources
from app.services.stored import Storage
from storage.measurements import EvaluationRecord
from storage.run_ids import means_run
from storage.runs import Run

if TYPE_CHECKING:
    from torch import Tensor

    from abq_core.evaluation.perplexity import Evaluation
    from abq_core.models.loading import LoadedModel

EVALUATION_SEED = 0
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluationText:
    """The text of an evaluation and how it is read.

    data: a name or a file.  segments: None for EVALUATION_SEGMENTS, or all if a whole file is read; the paper's
    protocol always reads all.  seq_len: tokens per segment; None for the protocol's default, or for the model's context
    if that is shorter.  held_out: read only the last tenth of a file, as for a run that was calibrated on it.
    """

    data: str = BUILTIN_TEXT
    segments: int | Literal["all"] | None = None
    seq_len: int | None = None
    protocol: Protocol = "windows"
    held_out: bool = False


class EvaluationService:
    """Evaluates runs and models on held-out text."""

    def __init__(self, storage: Storage, registry: ModelRegistry, sources: Sources, runs: RunService) -> None:
        self._sources, self._measurements, self._registry, self._runs = sources, storage.measurements, registry, runs

    def evaluate(
        self,
        ref_or_run: str,
        text: EvaluationText | None = None,
        on_step: OnStep | None = None,
        account: str | None = None,
    ) -> "Evaluation":
        """Evaluate a run, or a model at full precision, on held-out text, and store the row.

        Of a named text the evaluation split is read. A file is read whole, but for a run that was calibrated on it only
        its last tenth; the record of the text says which. A text with fewer segments is read completely; `segments` and
        `seq_len` of the result are those that were read.

        on_step(done, total): called after each step; may raise to stop.  account: of the page's visitor who names the
        text. Raises RunNotFoundError, MissingBlockError, ModelError, DataError, EvaluationError, ServiceError.
        """
        from abq_core.evaluation.perplexity import Evaluation, evaluate

        text = text or EvaluationText()
        self._sources.check_text(text.data, account)
        text = replace(text, data=local_path(text.data))
        run = self._runs.get(ref_or_run) if means_run(ref_or_run) else None
        reference = self._registry.full(run.model if run else self._sources.stored_model(ref_or_run))
        ids, record = read_segments(text, self._split(text, run), reference)
        started = time.perf_counter()
        kl_floor = self._kl_floor(text.data, reference, ids, record, on_step)
        if run is None:
            model, precision, method = reference, "FP16", "none"
        else:
            model, precision, method = self._registry.streamed(run.id), run.precision, run.method
        size = _size_of(run, reference, model)
        scores = evaluate(model, None if run is None else reference, ids, on_step, record.unscored)
        result = Evaluation(
            **vars(scores),
            protocol=record.protocol,
            kl_floor=kl_floor,
            precision=precision,
            method=method,
            stored_bits=size.stored_bits,
            weight_bytes=size.weight_bytes,
            bits_per_parameter=size.bits_per_parameter,
            model_bytes=size.model_bytes,
            tokens=record.text_tokens,
            segments=ids.shape[0],
            seq_len=ids.shape[1],
            data=text.data,
            text=record,
            seed=EVALUATION_SEED,
            seconds=time.perf_counter() - started,
        )
        self._measurements.add_evaluation(run.id if run else None, reference.ref, now(), asdict(result))
        return result

    def has_full_precision(self, model: str, data: str, segments: int, seq_len: int) -> bool:
        """True if this model was already evaluated at full precision on these segments of this text.

        A text that has changed since counts as another one.
        """
        from abq_core.text.segments import recorded_segments

        tokenizer = self._registry.full(model).tokenizer
        ids, record = recorded_segments(data, tokenizer, segments, seq_len, EVALUATION_SEED, "evaluation")
        wanted = protocol(_key(data, ids, record))
        records = self._measurements.evaluations(model=model)
        return any(r.run_id is None and protocol(r.values) == wanted for r in records)

    def segment_losses(self, model: str, run_id: str | None, like: str | None = None) -> list[float]:
        """Mean loss of each segment in the latest evaluation of a run.

        With None, of the model at full precision, in its latest evaluation with the protocol of `like`.
        Raises ServiceError if there is no such evaluation.
        """
        records = [r for r in self._measurements.evaluations(run_id, model=model) if r.run_id == run_id]
        if run_id is None and like is not None:
            wanted = protocol(self._newest(self._measurements.evaluations(like), like).values)
            records = [r for r in records if protocol(r.values) == wanted]
        return list(self._newest(records, run_id or model).values["segment_losses"])

    def kl_buckets(self, run_id: str, measured_on: str = "") -> pandas.DataFrame:
        """KL by full precision's confidence in a run's latest evaluation: low, high, share, kl_mean.

        measured_on: of the latest on this text (`dataframes.text_label`). Empty if the evaluation has no buckets.
        """
        for record in self._measurements.evaluations(run_id):
            if not measured_on or text_label(record.values) == measured_on:
                return pandas.DataFrame(record.values.get("kl_buckets") or [], columns=BUCKET_COLUMNS)
        return pandas.DataFrame(columns=BUCKET_COLUMNS)

    def _split(self, text: EvaluationText, run: Run | None) -> Split:
        if is_name(text.data) or text.held_out or (run is not None and self._learned_from(run, text.data)):
            return "evaluation"
        return "whole"

    def _learned_from(self, run: Run, file: str) -> bool:
        """Whether the run was calibrated on this file, or on a file with the same content."""
        try:
            records = list(self._runs.texts(run.id).values())
        except RunFolderError:  # damaged: its spec still names the text
            records = []
        path, revision = local_path(file), read_text(file, "whole").revision
        sources = {str(run.spec.get("data")), *(record.source for record in records)}
        return path in sources or revision in {record.revision for record in records}

    def _kl_floor(
        self, data: str, reference: "LoadedModel", ids: "Tensor", record: TextRecord, on_step: OnStep | None
    ) -> float:
        """The stored noise floor of this model on this text, or a new measurement."""
        from abq_core.evaluation.noise_floor import kl_floor

        wanted = protocol(_key(data, ids, record))
        for stored in self._measurements.evaluations(examples=False, model=reference.ref):
            floor = stored.values.get("kl_floor")
            if floor is not None and protocol(stored.values) == wanted:
                return float(floor)

        def on_floor_step(done: int, total: int) -> None:  # may raise to stop; not counted as progress
            if on_step is not None:
                on_step(0, total)

        return kl_floor(reference, ids, on_floor_step, record.unscored)

    @staticmethod
    def _newest(records: Sequence[EvaluationRecord], ref_or_run: str) -> EvaluationRecord:
        """The first record. Raises ServiceError without one."""
        if not records:
            raise ServiceError(f"There is no evaluation of {ref_or_run!r} to compare with. Run: abq eval {ref_or_run}")
        return records[0]


class _Size(NamedTuple):
    """Sizes of an evaluated model, as in `Evaluation`."""

    stored_bits: float
    weight_bytes: int
    bits_per_parameter: float
    model_bytes: int


def _size_of(run: Run | None, reference: "LoadedModel", model: "LoadedModel") -> _Size:
    """The sizes of a run's model: those of the imported file, or of the run's precision."""
    from abq_core.inference.runtime import weight_bytes
    from abq_core.models.shape import shape_of
    from abq_core.planning.size import model_size

    if run is not None and is_import(run.spec):
        spec = ImportSpec.from_dict(run.spec)
        return _Size(spec.stored_bits, spec.weight_bytes, spec.bits_per_parameter, spec.model_bytes)
    rotated = run is not None and CalibrationSpec.from_dict(run.spec).active_switches.rotation
    size = model_size(shape_of(reference.ref, reference.model.config), model.precision, rotated=rotated)
    return _Size(model.precision.stored_bits, weight_bytes(model), size.bits_per_parameter, size.total)


def read_segments(text: EvaluationText, split: Split, model: "LoadedModel") -> "tuple[Tensor, TextRecord]":
    """The segments by the text's protocol, and their record."""
    from abq_core.text.paper import PAPER_SEQ_LEN, paper_segments
    from abq_core.text.segments import evaluation_segments

    if text.protocol == "paper":
        return paper_segments(text.data, model.tokenizer, text.seq_len or min(PAPER_SEQ_LEN, model.context), split)
    seq_len = text.seq_len or min(EVALUATION_SEQ_LEN, model.context)
    default = None if split == "whole" else EVALUATION_SEGMENTS
    count = None if text.segments == "all" else text.segments or default
    return evaluation_segments(text.data, model.tokenizer, count, seq_len, EVALUATION_SEED, split)


def _key(data: str, ids: "Tensor", record: TextRecord) -> dict[str, object]:
    """The values of an evaluation on these segments that `protocol` reads."""
    segments, seq_len = ids.shape
    return {
        "data": data,
        "segments": segments,
        "seq_len": seq_len,
        "protocol": record.protocol,
        "text": {"sha256": record.sha256},
    }
