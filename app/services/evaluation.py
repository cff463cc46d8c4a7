"""Perplexity and KL divergence to full precision, measured and stored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from abq_core.spec import EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN
from abq_core.text.sources import BUILTIN_TEXT
from app.clock import now
from app.services.dataframes import protocol
from app.services.errors import ServiceError
from app.services.registry import ModelRegistry
from app.services.sources import Sources
from app.services.stored import Storage
from storage.measurements import EvaluationRecord
from storage.run_ids import means_run

if TYPE_CHECKING:
    from abq_core.evaluation.perplexity import Evaluation

EVALUATION_SEED = 0


class EvaluationService:
    """Evaluates runs and models on held-out text."""

    def __init__(self, storage: Storage, registry: ModelRegistry, sources: Sources) -> None:
        self._sources = sources
        self._runs, self._measurements, self._registry = storage.runs, storage.measurements, registry

    def evaluate(
        self,
        ref_or_run: str,
        data: str = BUILTIN_TEXT,
        segments: int = EVALUATION_SEGMENTS,
        seq_len: int = EVALUATION_SEQ_LEN,
        on_step: Callable[[int, int], None] | None = None,
        account: str | None = None,
    ) -> "Evaluation":
        """Evaluate a run, or a model at full precision, on held-out text, and store the row.

        The text is the evaluation split of `data`. A text with fewer segments is read completely; `segments` and
        `seq_len` of the result are those that were read.

        on_step(done, total): called after each step; may raise to stop.  account: of the page's visitor who names the
        text. Raises ModelError, DataError, ServiceError.
        """
        from abq_core.evaluation.perplexity import Evaluation, evaluate
        from abq_core.inference.runtime import weight_bytes
        from abq_core.models.shape import shape_of
        from abq_core.planning.size import model_size
        from abq_core.text.segments import evaluation_segments

        self._sources.check_text(data, account)
        run = self._runs.get(ref_or_run) if means_run(ref_or_run) else None
        reference = self._registry.full(run.model if run else ref_or_run)
        text, record = evaluation_segments(data, reference.tokenizer, segments, seq_len, EVALUATION_SEED)
        started = time.perf_counter()
        if run is None:
            model, precision, method = reference, "FP16", "none"
        else:
            model, precision, method = self._registry.streamed(run.id), run.precision, run.method
        size = model_size(shape_of(reference.ref, reference.model.config), model.precision)
        scores = evaluate(model, None if run is None else reference, text, on_step, record.unscored)
        result = Evaluation(
            **asdict(scores),
            precision=precision,
            method=method,
            stored_bits=model.precision.stored_bits,
            weight_bytes=weight_bytes(model),
            bits_per_parameter=size.bits_per_parameter,
            model_bytes=size.total,
            tokens=text.numel() - len(text) * record.prefix_tokens,
            segments=text.shape[0],
            seq_len=text.shape[1],
            data=data,
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
        _, record = recorded_segments(data, tokenizer, segments, seq_len, EVALUATION_SEED, "evaluation")
        wanted = (data, segments, seq_len, record.sha256)
        records = self._measurements.evaluations()
        return any(r.run_id is None and r.model == model and protocol(r.values) == wanted for r in records)

    def segment_losses(self, model: str, run_id: str | None, like: str | None = None) -> list[float]:
        """Mean loss of each segment in the latest evaluation of a run.

        With None, of the model at full precision, in its latest evaluation with the protocol of `like`.
        Raises ServiceError if there is no such evaluation.
        """
        records = [r for r in self._measurements.evaluations(run_id) if r.run_id == run_id and r.model == model]
        if run_id is None and like is not None:
            wanted = protocol(self._newest(self._measurements.evaluations(like), like).values)
            records = [r for r in records if protocol(r.values) == wanted]
        return list(self._newest(records, run_id or model).values["segment_losses"])

    @staticmethod
    def _newest(records: Sequence[EvaluationRecord], ref_or_run: str) -> EvaluationRecord:
        """The first record. Raises ServiceError without one."""
        if not records:
            raise ServiceError(f"There is no evaluation of {ref_or_run!r} to compare with. Run: abq eval {ref_or_run}")
        return records[0]
