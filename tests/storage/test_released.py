"""Stored databases of every released schema open, migrate and work like new ones.

They are in the folder `released`.
"""

import shutil
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from storage_cases import SPEC, Clock

from storage.database import MIGRATIONS, Database
from storage.jobs import Jobs
from storage.measurements import Measurements
from storage.runs import Runs

RELEASED = sorted((Path(__file__).parent / "released").glob("*.sqlite3"))


def test_every_revision_has_a_stored_database() -> None:
    revisions = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    assert {path.stem for path in RELEASED} == revisions


@pytest.mark.parametrize("stored", RELEASED, ids=lambda path: path.stem)
def test_a_stored_database_opens_and_its_jobs_continue(stored: Path, tmp_path: Path) -> None:
    clock = Clock()
    with Database.open(Path(shutil.copy(stored, tmp_path))) as database:
        jobs, runs, measurements = Jobs(database), Runs(database), Measurements(database)
        assert jobs.counts() == dict.fromkeys(("succeeded", "failed", "cancelled", "running", "queued"), 1)
        assert len(measurements.evaluations()) == len(measurements.task_scores()) == len(measurements.throughput()) == 1
        failed = jobs.list("failed")[0]
        assert [record.block for record in runs.blocks(failed.run_id)] == [0] and jobs.losses(failed.id)
        jobs.resume(failed.id, clock.now)
        claimed = jobs.claim_next("w", clock.now)
        assert claimed is not None and (claimed.id, claimed.epoch) == (failed.id, failed.epoch + 1)
        jobs.record_block(claimed.id, claimed.epoch, clock.now, 1, "b" * 64, 1.0, {})
        assert jobs.finish(claimed.id, claimed.epoch, clock.now).state == "succeeded"
        assert len(jobs.requeue_expired(clock.move(3600))) == 1
        assert jobs.submit(SPEC, clock.now).number > max(job.number for job in jobs.list()[1:])
