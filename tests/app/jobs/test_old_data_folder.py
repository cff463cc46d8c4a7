"""A data folder of release 0.1.0 with a half-done job.

It opens, its runs are listed, and the job resumes.
The folder is written here the way that release wrote it, not with the program's own functions: a stored database of
its schema, and a run folder whose spec spells out the default switches and epochs.
"""

import hashlib
import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from app_cases import SpecMaker, settings_in, work_on

from abq_core.spec import CalibrationSpec
from app.cli.main import main
from app.clock import now
from app.jobs.calibration_job import EvaluationPlan, run_claimed
from app.jobs.lease import JobLease
from app.services import Services, open_services
from storage.jobs import Job

DATABASE = Path(__file__).parents[2] / "storage" / "released" / "0001.sqlite3"
RUN, JOB = "r-0123456789", "j-0123456789"
STORED_AT = "2026-01-01 12:00:00.000000"
SWITCHES: dict[str, dict[str, Any]] = {  # as release 0.1.0 wrote the defaults of the methods
    "abq": {
        "balance": "learned", "clipping": True, "compensation": True, "dlc": True, "akl": True, "mse": "both",
        "akl_per_head": False, "rounding": False, "end_to_end": False, "clip_search": False, "act_clipping": False,
        "symmetric": False, "block_targets": False, "hadamard": False, "half_zero": False,
    },
    "abq+": {
        "balance": "learned", "clipping": True, "compensation": False, "dlc": True, "akl": False, "mse": "both",
        "akl_per_head": False, "rounding": True, "end_to_end": True, "clip_search": True, "act_clipping": True,
        "symmetric": False, "block_targets": True, "hadamard": True, "half_zero": True,
    },
}  # fmt: skip
EPOCHS = {"abq": 20, "abq+": 10}


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run of the calibration, and the drafts that it had before its end-to-end pass."""

    services: Services
    job: Job
    drafts: dict[int, bytes]

    def hashes(self) -> list[str]:
        return [block.sha256 for block in self.services.storage.runs.blocks(self.job.run_id)]


def run_reference(folder: Path, spec: CalibrationSpec) -> Reference:
    services = open_services(settings_in(folder))
    job = services.jobs.submit(spec)
    claimed = services.storage.jobs.claim_next("reference", now(), job_id=job.id)
    assert claimed is not None
    drafts: dict[int, bytes] = {}

    def keep_drafts(progress: object) -> None:  # also called right after every finished block
        for path in services.runs.folder(job.run_id).path.glob("drafts/[0-9]*.safetensors"):
            drafts.setdefault(int(path.stem), path.read_bytes())

    with JobLease(services.storage.jobs, claimed) as lease:
        run_claimed(services, lease, EvaluationPlan(4, 32), keep_drafts)
    assert services.jobs.get(job.id).state == "succeeded", services.jobs.log(job.id)
    return Reference(services, job, drafts)


def stored_spec(spec: CalibrationSpec) -> dict[str, Any]:
    """The spec as the old release stored it, with everything spelled out."""
    return {
        "model": spec.model,
        "precision": str(spec.precision),
        "method": spec.method,
        "switches": SWITCHES[spec.method],
        "data": spec.data,
        "segments": spec.segments,
        "seq_len": spec.seq_len,
        "epochs": EPOCHS[spec.method],
        "end_to_end_segments": 16 if spec.method == "abq+" else None,
        "seed": spec.seed,
        "device": "cpu",
    }


def write_old_folder(folder: Path, spec: CalibrationSpec, reference: Reference) -> Path:
    """A data folder in which the first of two blocks is done. Returns the file of that block."""
    done = reference.services.runs.folder(reference.job.run_id)
    run_folder, content = folder / "runs" / RUN, stored_spec(spec)
    block = reference.drafts.get(0, done.block_path(0).read_bytes())
    path = run_folder / ("drafts" if reference.drafts else "blocks") / "000.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(block)
    inputs = json.loads((done.path / "spec.json").read_text())
    text = json.dumps({**inputs, "spec": content}, indent=2, sort_keys=True) + "\n"
    (run_folder / "spec.json").write_text(text)
    texts = json.loads((done.path / "data.json").read_text())
    (run_folder / "data.json").write_text(json.dumps({"blocks": texts["blocks"]}, indent=2, sort_keys=True) + "\n")

    shutil.copy(DATABASE, folder / "abq.sqlite3")
    database = sqlite3.connect(folder / "abq.sqlite3")
    database.execute("PRAGMA foreign_keys = ON")
    with database:
        for table in ("runs", "evaluations", "throughput"):  # rows of the storage tests, without real specs
            database.execute(f"DELETE FROM {table}")
        database.execute(
            "INSERT INTO runs (id, model, precision, method, spec, created_at, note) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (RUN, spec.model, content["precision"], spec.method, json.dumps(content), STORED_AT, "half done"),
        )
        database.execute(
            "INSERT INTO jobs (id, run_id, kind, spec, state, epoch, attempts, created_at, started_at, finished_at, "
            "cancel_requested, blocks_done, blocks_total, progress, message, error) "
            "VALUES (?, ?, 'calibrate', ?, 'failed', 1, 0, ?, ?, ?, 0, 1, 2, 0.4, 'Block 1 of 2 done', 'disk full')",
            (JOB, RUN, json.dumps(content), STORED_AT, STORED_AT, STORED_AT),
        )
        database.execute(
            "INSERT INTO blocks (run_id, block, sha256, seconds, distances, recorded_at) VALUES (?, 0, ?, 1.5, ?, ?)",
            (RUN, hashlib.sha256(block).hexdigest(), '{"cosine": 0.01}', STORED_AT),
        )
        database.execute(
            "INSERT INTO losses (job_id, block, step, terms, recorded_at) VALUES (?, 0, 0, ?, ?)",
            (JOB, '{"dlc": 0.5}', STORED_AT),
        )
    database.close()
    return path


@pytest.mark.parametrize("method", ["abq", "abq+"])
def test_a_half_done_job_of_an_old_data_folder_resumes(
    method: str,
    tiny_spec: SpecMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    passes = {"end_to_end_segments": 16} if method == "abq+" else {}
    spec = tiny_spec("W2A8", method, epochs=None, **passes)
    reference = run_reference(tmp_path / "reference", spec)
    first = write_old_folder(tmp_path / "old", spec, reference)
    written = first.read_bytes(), first.stat().st_mtime_ns

    services = open_services(settings_in(tmp_path / "old"))
    monkeypatch.setenv("ABQ_DATA_DIR", str(tmp_path / "old"))
    assert main(["runs", "list", "--json"]) == 0
    assert RUN in {run["run"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert main(["jobs", "list"]) == 0
    assert JOB in capsys.readouterr().out
    before = services.jobs.get(JOB)
    assert CalibrationSpec.from_dict(before.spec) == spec, "spelled-out defaults are the same calibration"
    assert (before.state, before.blocks_done) == ("failed", 1) and len(services.jobs.losses(JOB)) > 0

    services.jobs.resume(JOB)
    ended = work_on(services, services.jobs.get(JOB))
    assert ended.state == "succeeded", services.jobs.log(JOB)
    assert "Block 1 of 2 already stored" in services.jobs.log(JOB)
    if method == "abq":
        assert (first.read_bytes(), first.stat().st_mtime_ns) == written, "a finished block was computed again"
    assert [block.sha256 for block in services.storage.runs.blocks(RUN)] == reference.hashes()
    assert main(["runs", "verify", RUN]) == 0
