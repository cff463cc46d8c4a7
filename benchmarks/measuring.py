"""One row of a benchmark: what is asked, and its calibration and evaluation in a process of its own."""

import multiprocessing
import platform
import time
from dataclasses import MISSING, dataclass, fields
from multiprocessing.connection import Connection
from typing import Any

import torch
import transformers
from conditions import Conditions
from peer_weights import is_peer, run_peer
from peers.exchange import peak_mib
from torch import Tensor
from transformers.utils import logging

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.calibration.calibration_text import read_text
from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.runtime import quantized_model, weight_bytes
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.reference import fingerprint
from abq_core.precision import FULL, Precision
from abq_core.spec import METHODS, CalibrationSpec, Switches
from abq_core.text.segments import recorded_segments, segments

FULL_PRECISION = "full"


@dataclass(frozen=True)
class Question:
    """One row: a method of METHODS, a peer (see `is_peer`), or FULL_PRECISION.

    switches: None for the method's own.  symmetric: of a peer's weights.
    """

    model: str
    precision: str
    method: str
    switches: Switches | None
    symmetric: bool
    conditions: Conditions

    @property
    def model_name(self) -> str:
        """The last part of a folder or hub id: a model is the same wherever it lies."""
        return self.model.rstrip("/").rpartition("/")[2]

    @property
    def label(self) -> str:
        """Model, precision and method, with the switches that are not the method's own."""
        words = [self.model_name, self.precision, self.method]
        if self.switches is not None:
            own, ours = METHODS[self.method], self.switches
            names = [field.name for field in fields(Switches)]
            words += [f"{n}={getattr(ours, n)}" for n in names if getattr(ours, n) != getattr(own, n)]
        return " ".join(words)

    @property
    def spec(self) -> CalibrationSpec:
        """The calibration of a method of ours."""
        conditions = self.conditions
        return CalibrationSpec(
            self.model,
            Precision.parse(self.precision),
            self.method,
            self.switches,
            data=conditions.data,
            segments=conditions.segments,
            seq_len=conditions.seq_len,
            epochs=conditions.epochs,
            end_to_end_segments=conditions.end_to_end_segments,
            seed=conditions.seed,
        )

    def asked(self) -> dict[str, Any]:
        """All that the row's figures follow from, and nothing else: rows of equal questions are not measured twice.

        Switches at their default are left out, so that a switch that is added later does not make old rows stale.
        """
        conditions = self.conditions
        asked = {
            "model": self.model_name,
            "model_sha256": fingerprint(self.model)[:16],
            "precision": self.precision,
            "method": self.method,
            "data": conditions.data,
            "seed": conditions.seed,
            "evaluation": [conditions.eval_segments, conditions.eval_seq_len],
        }
        if self.method == FULL_PRECISION:
            return asked
        asked["calibration"] = [conditions.segments, conditions.seq_len]
        if is_peer(self.method):
            return asked | {"steps": conditions.steps, "symmetric": self.symmetric}
        spec = self.spec
        if spec.learns_end_to_end:
            asked["end_to_end_segments"] = spec.active_end_to_end_segments
        chosen = {f.name: getattr(spec.active_switches, f.name) for f in fields(Switches)}
        defaults = {f.name: f.default for f in fields(Switches) if f.default is not MISSING}
        asked["switches"] = {name: value for name, value in chosen.items() if defaults.get(name) != value}
        return asked | {"epochs": spec.active_epochs}


def measure(question: Question) -> dict[str, Any]:
    """Calibrate and evaluate one row, in a fresh process, so that its peak memory is its own.

    Raises what the process raised, and RuntimeError where it was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, question))
    process.start()
    sender.close()  # the process has its own: when that is closed without an answer, recv says so
    try:
        found: dict[str, Any] | Exception = receiver.recv()
    except EOFError:
        found = RuntimeError(f"The process that measured {question.label} was killed: is there enough memory?")
    process.join()
    if isinstance(found, Exception):
        raise found
    return found


def _answer(sender: Connection, question: Question) -> None:
    """Send what was measured, or why it was not."""
    try:
        found: dict[str, Any] | Exception = _measure(question)
    except Exception as error:
        found = error
    sender.send(found)


def _measure(question: Question) -> dict[str, Any]:
    conditions = question.conditions
    logging.disable_progress_bar()
    base = load_model(question.model)
    model, cost = _quantized(base, question)
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


def _quantized(base: LoadedModel, question: Question) -> tuple[LoadedModel, dict[str, Any]]:
    """The model of a row and what its calibration cost: seconds on the clock and of the CPU, peak memory in MiB."""
    conditions, precision = question.conditions, Precision.parse(question.precision)
    if question.method == FULL_PRECISION:
        assert precision == FULL
        return base, {}
    if is_peer(question.method):
        name, tokens = _peer_tokens(base, question)
        options = {"steps": conditions.steps, "seed": conditions.seed, "symmetric": question.symmetric}
        result = run_peer(name, conditions.peer_python, base, precision, tokens, options)
        return quantized_model(base, precision, result.store, "simulated"), result.record
    store, started, processor = MemoryStore(), time.perf_counter(), time.process_time()
    calibrate(base, question.spec, store)
    cost = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
        "peak_mib": peak_mib(),
    }
    return quantized_model(base, precision, store, "simulated"), cost


def _peer_tokens(base: LoadedModel, question: Question) -> tuple[str, Tensor]:
    """The peer's name and the segments it calibrates with: ours, or as many as `name@count` says of the larger text
    that our end-to-end pass reads.
    """
    conditions = question.conditions
    name, _, count = question.method.partition("@")
    if not count:
        return name, segments(
            conditions.data, base.tokenizer, conditions.segments, conditions.seq_len, conditions.seed, "calibration"
        )
    spec = CalibrationSpec(
        question.model,
        Precision.parse(question.precision),
        "abq+",
        data=conditions.data,
        seq_len=conditions.seq_len,
        end_to_end_segments=int(count),
        seed=conditions.seed,
    )
    text = read_text(base, spec)
    assert text.end_to_end is not None
    return name, text.end_to_end
