"""Memory and time of calibrations beside their estimates; writes the tables of docs/cost.md.

    python benchmarks/calibration_cost.py                      # runs of whole jobs on the CPU
    python benchmarks/calibration_cost.py --shape llama-7b     # device memory of one block, by formula and by counting
    python benchmarks/calibration_cost.py --shape llama-7b --device cuda    # and as measured on a GPU

Each run is a process of its own on one thread. Its CPU seconds are compared, not those on the clock: they are nearly
equal on a machine that is free, and the same on one that is busy. Rows that the file has are not measured again.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from cost_runs import Run, measure
from counted_device import DEVICE, CountedDevice
from random_models import CONFIGS, random_folder, random_model, random_shape
from row_file import RowFile
from transformers import AutoTokenizer

from abq_core.artifacts import MemoryStore
from abq_core.calibrate import calibrate
from abq_core.cost import Work
from abq_core.estimate import estimate
from abq_core.models import BUILTIN, BUILTIN_FOLDER, LoadedModel, model_shape
from abq_core.precision import FULL, Precision
from abq_core.spec import METHODS, CalibrationSpec

ROOT = Path(__file__).parent.parent
PAGE, ROWS = ROOT / "docs/cost.md", ROOT / "benchmarks/results/calibration-cost.json"
_GIB, _MIB = 2**30, 2**20
_RUNS = {  # model: segments, tokens, epochs, segments of the end-to-end pass
    BUILTIN: (16, 256, 2, 64),
    "random-256": (8, 512, 1, 32),
    "random-512": (8, 256, 1, 16),
    "random-1024": (4, 256, 1, 8),
}
_METHODS = ("rtn", "abq", "abq+")


def main() -> None:
    """Parse the command line, measure, print; write the page where whole jobs were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=CONFIGS, help="measure one block of this model on a device")
    parser.add_argument("--device", choices=("counted", "cuda"), default="counted")
    parser.add_argument("--blocks", type=int, default=1, help="of that shape")
    parser.add_argument("--segments", type=int, default=128, help="of that shape; where counted, 1 says as much")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--again", action="store_true", help="measure runs that the file has anew")
    parser.add_argument("--json", type=Path, default=ROWS)
    arguments = parser.parse_args()
    if arguments.shape:
        print(_device_table(arguments))
        return
    rows = list(_runs(RowFile(arguments.json), arguments.again))
    for name, table in (("memory", _memory_table(rows)), ("time", _time_table(rows))):
        print(f"\n{table}")
        _write(name, table)


def _runs(file: RowFile, again: bool) -> Iterator[dict[str, Any]]:
    """A row for each model and method: what was measured and what is estimated."""
    for model, (segments, seq_len, epochs, more) in _RUNS.items():
        with TemporaryDirectory() as folder:
            ref = model if model == BUILTIN else str(random_folder(model, Path(folder)))
            shape = model_shape(ref)
            for method in _METHODS:
                run = Run(model, method, segments, seq_len, epochs, more)
                found = None if again else file.find(run.asked())
                if found is None:
                    found = measure(run, ref)
                    file.add(run.asked(), found)
                    print(json.dumps({"run": run.asked(), **found}), flush=True)
                spec = run.spec(ref)
                yield {"run": run, "found": found, "estimate": estimate(shape, spec.precision, Work.of(spec))}


def _memory_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        measured, estimated = max(row["found"]["peak_mib"].values()), row["estimate"].peak_memory_bytes / _MIB
        lines.append([*_labels(row), f"{measured:,}", f"{estimated:,.0f}", f"{estimated / measured:.2f}"])
    return _table(["model", "method", "calibrated with", "peak RSS, MiB", "estimate", "ratio"], lines)


def _time_table(rows: Sequence[Mapping[str, Any]]) -> str:
    phases = ("blocks", "pass")
    lines = []
    for row in rows:
        seconds = row["found"]["seconds"]
        measured, estimated = sum(seconds.values()), row["estimate"].seconds
        shown = [f"{seconds[phase]:.1f}" for phase in phases]
        rest = f"{measured - sum(seconds[phase] for phase in phases):.1f}"
        lines.append(
            [*_labels(row), *shown, rest, f"{measured:.0f}", f"{estimated:.0f}", f"{estimated / measured:.2f}"]
        )
    titles = ["blocks, s", "end-to-end pass", "the rest of the job", "in all", "estimate", "ratio"]
    return _table(["model", "method", "calibrated with", *titles], lines)


def _labels(row: Mapping[str, Any]) -> list[str]:
    run: Run = row["run"]
    text = f"{run.segments} x {run.seq_len}"
    if METHODS[run.method].learns:
        text += f", {run.epochs} epoch{'s' * (run.epochs > 1)}"
    if METHODS[run.method].end_to_end:
        text += f"; {run.end_to_end_segments} x {run.seq_len}"
    return [f"`{run.model}`", f"`{run.method}`", text]


def _device_table(arguments: argparse.Namespace) -> str:
    """Device memory of methods that work block by block, at full size: by formula, and counted or measured."""
    shape = random_shape(arguments.shape)
    lines = []
    for method in ("rtn", "omniquant", "abq", "abq+"):
        switches = replace(METHODS[method], end_to_end=False)
        spec = CalibrationSpec(
            shape.ref,
            Precision.parse("W4A4"),
            method,
            switches,
            data="builtin-train",
            segments=arguments.segments,
            seq_len=arguments.seq_len,
            device="cuda",
        )
        found = estimate(shape, spec.precision, Work.of(spec))
        formula, host = found.device_memory_bytes / _GIB, found.peak_memory_bytes / _GIB
        lines.append([f"`{method}`", f"{formula:.2f}", *_on_device(spec, arguments), f"{host:.1f}"])
    how = "counted" if arguments.device == "counted" else "allocated at most | seconds a block and epoch"
    return _table(["method", "device memory, GiB, by formula", *how.split(" | "), "host memory, GiB"], lines)


def _on_device(spec: CalibrationSpec, arguments: argparse.Namespace) -> list[str]:
    """One epoch of the first blocks on the device: bytes as counted, or as CUDA says, and seconds."""
    spec = replace(spec, epochs=1)
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_FOLDER)
    tokenizer.model_max_length = spec.seq_len
    if arguments.device == "counted":
        model = random_model(spec.model, arguments.blocks, DEVICE)
        with CountedDevice() as device:
            base = LoadedModel(spec.model, model, tokenizer, FULL)
            calibrate(base, replace(spec, data="builtin", segments=1, device=DEVICE), MemoryStore())
        return [f"{device.peak / _GIB:.2f}"]
    base = LoadedModel(spec.model, random_model(spec.model, arguments.blocks, "cpu"), tokenizer, FULL)
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    calibrate(base, spec, MemoryStore())
    seconds = (time.perf_counter() - started) / arguments.blocks
    return [f"{torch.cuda.max_memory_allocated() / _GIB:.2f}", f"{seconds:.0f}"]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows])


def _write(name: str, table: str) -> None:
    """Put a table between its marks on the page."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, _, rest = PAGE.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}{table}{end}{after}", "utf-8")


if __name__ == "__main__":
    main()
