"""One calibration with all that its job does, in a process of its own: CPU seconds and peak memory, phase by phase."""

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch

from abq_core.artifacts import MemoryStore
from abq_core.calibrate import calibrate
from abq_core.data import segments
from abq_core.diagnostics import diagnose
from abq_core.evaluate import evaluate
from abq_core.events import BlockDone, Event, Started
from abq_core.models import load_model
from abq_core.precision import Precision
from abq_core.runtime import quantized_model
from abq_core.spec import CalibrationSpec
from app.calibration_job import DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN, EvaluationPlan


@dataclass(frozen=True)
class Run:
    """What is measured. model: "builtin" or a name of random_models.CONFIGS."""

    model: str
    method: str
    segments: int
    seq_len: int
    epochs: int
    end_to_end_segments: int

    def spec(self, ref: str) -> CalibrationSpec:
        """The calibration, of the model at `ref`."""
        return CalibrationSpec(
            ref,
            Precision.parse("W4A4"),
            self.method,
            segments=self.segments,
            seq_len=self.seq_len,
            epochs=self.epochs,
            end_to_end_segments=self.end_to_end_segments,
        )

    def asked(self) -> dict[str, Any]:
        """The key of its row."""
        return asdict(self)


def measure(run: Run, ref: str) -> dict[str, Any]:
    """CPU seconds (user and system, one thread) of each phase, and the peak memory of the process after it, in MiB."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, run, ref).result()


class _Clock:
    """CPU seconds and peak memory, read at the end of every phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, int] = {}
        self._before = 0.0

    def end(self, phase: str) -> None:
        """A phase is over."""
        now = time.process_time()
        self.seconds[phase] = round(now - self._before, 2)
        self.peak_mib[phase] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        self._before = now


def _measure(run: Run, ref: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    clock, store, spec = _Clock(), MemoryStore(), run.spec(ref)
    clock.end("import")
    base = load_model(ref)
    clock.end("load")
    blocks = 0

    def on_event(event: Event) -> None:
        nonlocal blocks
        if isinstance(event, Started):
            blocks = event.blocks
            clock.end("text")
        elif isinstance(event, BlockDone) and event.block == blocks - 1 and "blocks" not in clock.seconds:
            clock.end("blocks")

    calibrate(base, spec, store, on_event)
    clock.end("pass")
    tokens = min(DIAGNOSED_SEQ_LEN, spec.seq_len)
    count = min(DIAGNOSED_SEGMENTS, spec.segments)
    diagnose(base, spec.precision, store, segments(spec.data, base.tokenizer, count, tokens, 0, "evaluation"))
    clock.end("diagnose")
    plan = EvaluationPlan()
    ids = segments(spec.data, base.tokenizer, plan.segments, plan.seq_len, 0, "evaluation")
    evaluate(base, None, ids)
    evaluate(quantized_model(base, spec.precision, store, "simulated"), base, ids)
    clock.end("evaluate")
    return {"seconds": clock.seconds, "peak_mib": clock.peak_mib, "torch": torch.__version__}
