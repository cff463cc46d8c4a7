"""Measured cost of calibrations compared with abq_core/planning/cost.py: memory, disk space, CPU seconds.

    python benchmarks/calibration_cost.py                           # whole jobs on one thread, each in a new process
    python benchmarks/calibration_cost.py --shape llama-7b          # device memory of one block, without a device
    python benchmarks/calibration_cost.py --before FOLDER           # compare with the code of another commit

Prints tables and stores the rows in benchmarks/results/calibration-cost.json; stored rows are not measured again.
CPU seconds are compared, not wall time. Machines differ by a factor, which is taken from the first row and applied to
the others.
"""

import argparse
import json
import os
import pydoc_data.topics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from counted_device import counted_peak
from random_models import CONFIGS, random_shape, save_random
from row_file import RowFile

from abq_core.models.reference import BUILTIN
from abq_core.models.shape import model_shape
from abq_core.planning.cost import DEVICE_BYTES, SLACK, Work
from abq_core.planning.estimate import Estimate, estimate
from abq_core.precision import Precision
from abq_core.spec import METHODS, CalibrationSpec

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/calibration-cost.json"
WITHIN = 0.25
_GIB, _MIB = 2**30, 2**20
_TEXT_CHARACTERS = 700_000
_JOBS = {  # model: segments, tokens, epochs, segments of the end-to-end pass
    BUILTIN: (16, 256, 2, 64),
    "random-256": (8, 512, 1, 32),
    "random-512": (8, 256, 1, 16),
    "random-1024": (4, 256, 1, 8),
}
_METHODS = ("abq", "abq+", "rtn")
_MEASURED = {"diagnosed": [2, 256], "evaluated": [4, 256]}
_BEFORE = {"method": "abq", "segments": 8, "seq_len": 1024, "epochs": 1}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=_JOBS, default=list(_JOBS))
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS))
    parser.add_argument("--shape", choices=CONFIGS, help="count one block of this model")
    parser.add_argument("--before", type=Path, help="a folder with the code of an earlier commit")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = RowFile(arguments.json)
    if arguments.shape:
        print(_counted_table(arguments.shape, rows))
    elif arguments.before:
        print(_before_table(arguments.before, rows))
    else:
        print(_jobs_table(arguments.models, arguments.methods, rows))


def _jobs_table(models: Sequence[str], methods: Sequence[str], rows: RowFile) -> str:
    """Every measured value with its estimate."""
    lines: list[list[str]] = []
    rate = None
    for model in models:
        for method in methods:
            job = _job(model, method)
            found = _measured(job, rows)
            cost = estimate_job(job)
            seconds = sum(found["seconds"].values())
            rate = rate or seconds / cost.seconds
            figures = (
                ("memory, MiB", cost.peak_memory_bytes / _MIB, max(found["peak_mib"].values())),
                ("run on disk, MiB", _final_bytes(cost) / _MIB, found["disk_bytes"] / _MIB),
                (f"CPU seconds (machine: x {rate:.2f})", cost.seconds * rate, seconds),
            )
            for name, estimated, measured in figures:
                ratio = estimated / measured
                within = "yes" if abs(ratio - 1) <= WITHIN else "**no**"
                cells = [f"`{model}`", f"`{method}`", name, f"{estimated:,.1f}", f"{measured:,.1f}", f"{ratio:.2f}"]
                lines.append([*cells, within])
    titles = ["model", "method", "quantity", "estimated", "measured", "ratio", f"within {WITHIN:.0%}"]
    return _table(titles, lines)


def _job(model: str, method: str) -> dict[str, Any]:
    """The argument of cost_run.py for one calibration, without its text."""
    segments, seq_len, epochs, more = _JOBS[model]
    job = {"model": model, "precision": "W4A4", "method": method, "segments": segments, "seq_len": seq_len}
    if METHODS[method].learns:
        job["epochs"] = epochs
    if METHODS[method].end_to_end:
        job["end_to_end_segments"] = more
    return {**job, **_MEASURED}


def estimate_job(job: Mapping[str, Any]) -> Estimate:
    """Estimate the cost of a calibration from shapes alone."""
    values = {name: value for name, value in job.items() if name not in _MEASURED}
    spec = CalibrationSpec(**{**values, "precision": Precision.parse(job["precision"])})
    shape = model_shape(BUILTIN) if spec.model == BUILTIN else random_shape(spec.model)
    extra = {name: tuple(job.get(name, (0, 0))) for name in _MEASURED}
    return estimate(shape, spec.precision, replace(Work.of(spec), **extra))


def _final_bytes(estimated: Estimate) -> int:
    """Bytes of the finished run: an end-to-end pass removes its drafts."""
    finished = replace(estimated.work, end_to_end_segments=0)
    return estimate(estimated.shape, estimated.precision, finished).run_bytes


def _measured(job: Mapping[str, Any], rows: RowFile) -> dict[str, Any]:
    """Return the row's results from the file, or measure them now."""
    found = rows.find(job)
    if found is None:
        found = measure(job)
        rows.add(job, found)
        print(json.dumps({**job, **found}), file=sys.stderr, flush=True)
    return found


def measure(job: Mapping[str, Any], code: Path = ROOT) -> dict[str, Any]:
    """Run one calibration in a new process with the code in a folder: CPU seconds and peak MiB per phase."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text("\n\n".join(pydoc_data.topics.topics.values())[:_TEXT_CHARACTERS], "utf-8")
        ref = job["model"]
        if ref != BUILTIN:
            ref = str(save_random(ref, folder / ref))
        order = json.dumps({**job, "model": ref, "data": str(text)})
        environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, str(ROOT / "benchmarks/cost_run.py"), order]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{job} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _before_table(folder: Path, rows: RowFile) -> str:
    """One calibration of the built-in model with full-context segments, before and now."""
    job = {"model": BUILTIN, "precision": "W4A4", **_BEFORE}
    found = {"now": _measured(job, rows)}
    earlier = rows.find({**job, "code": "before"})
    if earlier is None:
        earlier = measure(job, folder.resolve())
        rows.add({**job, "code": "before"}, earlier)
    found = {"before": earlier, **found}
    lines = []
    for name, row in found.items():
        peaks, seconds = row["peak_mib"], row["seconds"]
        above = peaks["blocks"] - peaks["text"]
        lines.append([name, f"{peaks['blocks']:,.0f}", f"{above:,.0f}", f"{seconds['blocks']:.1f}"])
    return _table(["code", "peak MiB while blocks learn", "above the peak before", "CPU seconds"], lines)


def _counted_table(name: str, rows: RowFile, segments: int = 128, seq_len: int = 2048) -> str:
    """Device memory of one block at full size, estimated and counted, and of the whole calibration."""
    shape = random_shape(name)
    lines = []
    for method in METHODS:
        spec = CalibrationSpec(
            name,
            Precision.parse("W4A4"),
            method,
            replace(METHODS[method], end_to_end=False),
            segments=segments,
            seq_len=seq_len,
            epochs=1,
            device="cuda",
        )
        estimated = estimate(shape, spec.precision, Work.of(spec))
        job = {"counted": name, "method": method, "precision": "W4A4", "seq_len": seq_len}
        found = rows.find(job)
        if found is None:
            found = {"bytes": counted_peak(spec)}
            rows.add(job, found)
        tensors, counted = device_tensor_bytes(estimated), found["bytes"]
        device, host = estimated.device_memory_bytes / _GIB, estimated.peak_memory_bytes / _GIB
        cells = [f"{tensors / _GIB:.2f}", f"{counted / _GIB:.2f}", f"{tensors / counted:.2f}"]
        cells += [f"{device:.2f}", f"{host:.1f}"]
        if METHODS[method].end_to_end:
            whole = replace(spec, switches=None)
            together = estimate(shape, spec.precision, Work.of(whole))
            cells.append(f"{together.device_memory_bytes / _GIB:.0f}")
        else:
            cells.append("-")
        lines.append([f"`{method}`", *cells])
    titles = ["method", "tensors on the device, GiB, estimated", "counted", "ratio"]
    titles += ["all of the device, estimated", "host, estimated", "device with the end-to-end pass"]
    return _table(titles, lines)


def device_tensor_bytes(estimated: Estimate) -> float:
    """The part of an estimate's device memory that tensors occupy."""
    return (estimated.device_memory_bytes - DEVICE_BYTES) / SLACK


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows])


if __name__ == "__main__":
    main()
