"""Calibrate and evaluate one row of a benchmark in a new process."""

import multiprocessing
import platform
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
import transformers
from peer_weights import is_peer, peer_tokens, run_peer
from peers.exchange import peak_mib
from row_spec import FULL_PRECISION, RowSpec
from transformers.utils import logging

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.calibration.rotation import starting_model
from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.runtime import quantized_model, weight_bytes
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import FULL, Precision
from abq_core.spec import CalibrationSpec
from abq_core.text.segments import recorded_segments


def measure(spec: RowSpec) -> dict[str, Any]:
    """Calibrate and evaluate one row in a new process, so that its peak memory is measured alone.

    Raises what the process raised, or RuntimeError if it was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_and_send, args=(sender, spec))
    process.start()
    sender.close()  # the process has its own copy: if that closes without a result, recv raises EOFError
    try:
        result: dict[str, Any] | Exception = receiver.recv()
    except EOFError:
        result = RuntimeError(f"The process that measured {spec.label} was killed: is there enough memory?")
    process.join()
    if isinstance(result, Exception):
        raise result
    return result


def _measure_and_send(sender: Connection, spec: RowSpec) -> None:
    """Send the results, or the exception that prevented them."""
    try:
        result: dict[str, Any] | Exception = _measure(spec)
    except Exception as error:
        result = error
    sender.send(result)


def _measure(spec: RowSpec) -> dict[str, Any]:
    conditions = spec.conditions
    logging.disable_progress_bar()
    base = load_model(spec.model)
    model, cost = _quantized(base, spec)
    ids, text = recorded_segments(
        conditions.data,
        base.tokenizer,
        conditions.eval_segments,
        conditions.eval_seq_len,
        conditions.seed,
        "evaluation",
    )
    scores = evaluate(model, base, ids)
    return {
        "perplexity": scores.perplexity,
        "perplexity_stderr": scores.perplexity_stderr,
        "kl_mean": scores.kl_mean,
        "same_top": scores.same_top,
        "stored_bits": model.precision.stored_bits,
        "weight_bytes": weight_bytes(model),
        "tokens": ids.numel(),
        "text_sha256": text.sha256[:16],
        **cost,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "segment_losses": [round(loss, 6) for loss in scores.segment_losses],
    }


def _quantized(base: LoadedModel, spec: RowSpec) -> tuple[LoadedModel, dict[str, Any]]:
    """The quantized model of a row, and its calibration cost: wall and CPU seconds, peak memory in MiB."""
    conditions, precision = spec.conditions, Precision.parse(spec.precision)
    if spec.method == FULL_PRECISION:
        assert precision == FULL
        return base, {}
    if is_peer(spec.method):
        text = CalibrationSpec(
            base.ref,
            precision,
            data=conditions.data,
            segments=conditions.segments,
            seq_len=conditions.seq_len,
            seed=conditions.seed,
        )
        name, tokens = peer_tokens(base, spec.method, text)
        options = {"steps": conditions.steps, "seed": conditions.seed, "symmetric": spec.symmetric}
        result = run_peer(name, conditions.peer_python, base, precision, tokens, options)
        return quantized_model(base, precision, result.store, "simulated"), result.record
    store, started, processor = MemoryStore(), time.perf_counter(), time.process_time()
    calibrate(base, spec.calibration_spec, store)
    cost = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "peak_mib": peak_mib(),
    }
    start, precision = starting_model(base, spec.calibration_spec)
    return quantized_model(start, precision, store, "simulated"), cost
