"""Perplexity and distance to full precision, stored. Leaves the measuring to abq_core."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from abq_core.evaluation.perplexity import Evaluation, evaluate
from abq_core.inference.runtime import weight_bytes
from abq_core.text.segments import recorded_segments
from app.clock import now

if TYPE_CHECKING:
    from app.services.explorer import Explorer

EVALUATION_SEED = 0


def evaluate_run_or_model(
    explorer: "Explorer",
    ref_or_run: str,
    data: str,
    segments: int,
    seq_len: int,
    on_step: Callable[[int, int], None] | None,
) -> Evaluation:
    """Evaluate on the evaluation split of `data` and store the row."""
    run = explorer.run(ref_or_run) if ref_or_run.startswith("r-") else None
    reference = explorer.registry.full(run.model if run else ref_or_run)
    text, record = recorded_segments(data, reference.tokenizer, segments, seq_len, EVALUATION_SEED, "evaluation")
    started = time.perf_counter()
    if run is None:
        model, precision, method = reference, "FP16", "none"
    else:
        model, precision, method = explorer.registry.run(run.id, "simulated"), run.precision, run.method
    scores = evaluate(model, None if run is None else reference, text, on_step)
    result = Evaluation(
        **asdict(scores),
        precision=precision,
        method=method,
        stored_bits=model.precision.stored_bits,
        weight_bytes=weight_bytes(model),
        tokens=text.numel(),
        segments=text.shape[0],
        seq_len=text.shape[1],
        data=data,
        text=record,
        seed=EVALUATION_SEED,
        seconds=time.perf_counter() - started,
    )
    explorer.measurements.add_evaluation(run.id if run else None, reference.ref, now(), asdict(result))
    return result
