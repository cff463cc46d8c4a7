"""Make the examples that come with the program:

    python scripts/make_examples.py --data FOLDER

Calibrates the built-in model with the default text and length at seven precisions and methods, and writes one archive
each to app/shipped/examples. FOLDER is a data folder: calibrations that it has are not repeated. Takes about an hour
on one core.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from abq_core.calibration.artifacts import to_bytes
from abq_core.calibration.compact_block import compact_block, whole_block
from abq_core.calibration.quantized_block import stored_artifact
from abq_core.calibration.rotation import starting_model
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.jobs.foreground import bring_to_end
from app.json_values import to_json_values
from app.runs.example_archive import ExampleArchive
from app.runs.run_folder import BlockStore
from app.services import Services, open_services
from app.services.dataframes import protocol
from app.services.exchange.examples import SHIPPED
from app.services.registry import BUILTIN
from app.services.speed.timings import this_device
from app.settings import Settings

EXAMPLES = (
    ("W4A4", "rtn"), ("W4A4", "abq"), ("W4A4", "abq+"), ("W2*A8", "rtn"), ("W2*A8", "abq"), ("W2*A8", "abq+"),
    ("W2A8", "abq+"),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate what is missing, and replace the archives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data folder of the calibrations")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args(arguments)
    folder = options.data.resolve()
    settings = replace(Settings.from_environment(), data_dir=folder, database_url=f"sqlite:///{folder}/abq.sqlite3")
    services = open_services(settings)
    specs = [CalibrationSpec(BUILTIN, Precision.parse(precision), method) for precision, method in EXAMPLES]
    runs = services.sweeps.queue(services.sweeps.plan(specs))
    for run in runs:
        bring_to_end(services, services.jobs.get(run), run)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.out.glob("*.tar.xz"):
        path.unlink()
    command = shlex.join(["python", "scripts/make_examples.py", *(arguments or sys.argv[1:])])
    for run in runs:
        path = options.out / f"{run}.tar.xz"
        packed(services, run, command).write(path)
        print(f"{path}: {path.stat().st_size:,} bytes")


def packed(services: Services, run_id: str, command: str) -> ExampleArchive:
    """A finished run as an archive. Checks that its blocks follow from their compact form, bit for bit."""
    run, folder, rows = services.runs.get(run_id), services.runs.folder(run_id), services.storage.runs.blocks(run_id)
    spec = CalibrationSpec.from_dict(run.spec)
    base, _ = starting_model(services.registry.full(run.model), spec)
    store, blocks = BlockStore(folder, {row.block: row.sha256 for row in rows}), []
    for row in rows:
        stored_artifact(store, row.block)  # raises if its file is missing or damaged
        tensors = store.load(row.block) or {}
        compact = compact_block(base, spec, row.block, tensors)
        assert to_bytes(whole_block(base, spec, row.block, compact)) == to_bytes(tensors), f"{run_id}: {row.block}"
        blocks.append(to_bytes(compact))
    job = services.jobs.get(run_id)
    evaluation, baseline = evaluations(services, run_id)
    record = {
        "run": run.id,
        "made": {"command": command, "processor": this_device()},
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "blocks": [{"seconds": row.seconds, "distances": row.distances} for row in rows],
        "losses": [
            {"block": loss.block, "step": loss.step, "terms": loss.terms}
            for loss in services.storage.jobs.losses(job.id)
        ],
        "evaluation": evaluation,
        "baseline": baseline,
    }
    frames = {name: folder.read_frame(name) for name in folder.frame_names()}
    return ExampleArchive(to_json_values(record), folder.read_spec() or {}, folder.read_texts(), frames, blocks)


def evaluations(services: Services, run_id: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The newest evaluation of a run, and that of its model at full precision on the same text."""
    measured = services.storage.measurements.evaluations
    of_run = measured(run_id)[0]
    return of_run.values, next(
        record.values
        for record in measured()
        if record.run_id is None and record.model == of_run.model and protocol(record.values) == protocol(of_run.values)
    )


if __name__ == "__main__":
    main()
