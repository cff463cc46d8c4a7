"""One calibration, its diagnostics and its evaluation in this process: CPU seconds and peak memory of each phase.

    PYTHONPATH=folder-of-the-code python benchmarks/cost_run.py '{"model": "builtin", "method": "abq", ...}'

A separate script, so that calibration_cost.py can run it on one thread and with the code of another commit. Prints one
line of JSON.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import app.jobs.calibration_job  # noqa: F401 - imported for the memory that a worker has at its start
from abq_core.analysis.diagnostics import diagnose
from abq_core.calibration.calibrate import calibrate
from abq_core.calibration.rotation import starting_model
from abq_core.evaluation.perplexity import evaluate
from abq_core.events import BlockDone, Started
from abq_core.inference.runtime import streamed_model
from abq_core.models.loading import load_model
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from abq_core.text.segments import segments
from app.runs.run_folder import BlockStore, RunFolder

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Clock:
    """CPU seconds (user and system) and peak memory of each phase, read when the phase ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._before = 0.0

    def end(self, phase: str) -> None:
        """Record a phase and reset the peak, so that the next phase starts from the current memory."""
        now = time.process_time()
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        self.seconds[phase] = round(now - self._before, 2)
        self.peak_mib[phase] = round(int(line.split()[1]) / 1024, 1)
        self._before = now
        _CLEAR.write_text("5")


def main() -> None:
    """Run the calibration that the argument describes."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    diagnosed, evaluated = job.pop("diagnosed", None), job.pop("evaluated", None)
    torch.set_num_threads(1)
    clock = Clock()
    clock.end("start")
    base = load_model(job["model"])
    clock.end("load")
    spec = CalibrationSpec(**{**job, "precision": Precision.parse(job["precision"])})
    blocks = 0

    def on_event(event: object) -> None:
        nonlocal blocks
        if isinstance(event, Started):
            blocks = event.blocks
            clock.end("text")
        elif isinstance(event, BlockDone) and event.block == blocks - 1 and "blocks" not in clock.seconds:
            clock.end("blocks")

    with TemporaryDirectory() as name:
        folder = RunFolder(Path(name), "r-0000000000")
        store = BlockStore(folder, {})
        calibrate(base, spec, store, on_event)
        clock.end("pass")
        start, precision = starting_model(base, spec)
        if diagnosed is not None:
            for frame, rows in diagnose(start, precision, store, _text(base, spec, diagnosed)).items():
                folder.write_frame(frame, rows)
            clock.end("diagnose")
        if evaluated is not None:
            ids = _text(base, spec, evaluated)
            evaluate(base, None, ids)
            evaluate(streamed_model(start, precision, store), base, ids)
            clock.end("evaluate")
        size = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
    print(json.dumps({"seconds": clock.seconds, "peak_mib": clock.peak_mib, "disk_bytes": size}))


def _text(base: Any, spec: CalibrationSpec, amount: list[int]) -> torch.Tensor:
    return segments(spec.data, base.tokenizer, amount[0], amount[1], 0, "evaluation")


if __name__ == "__main__":
    main()
