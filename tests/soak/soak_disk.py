"""Checks of the disk.

Every fsync, rename and commit of a job fails in turn; a full disk; an old database.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from promise import Outcome
from soak_workers import Site
from sqlalchemy.engine.default import DefaultDialect

from app.clock import now
from app.jobs import calibration_job
from app.jobs.lease import JobLease
from storage.database import Database
from storage.errors import DatabaseError
from storage.jobs import Job, Jobs

RELEASED = Path(__file__).parents[1] / "storage" / "released"


class FailsOnce:
    """Wraps a system function: call number `at` fails, before or after it has taken effect."""

    def __init__(self, original: Callable[..., object], error: Exception, at: int, after: bool = False) -> None:
        self.calls = 0
        self._original, self._error, self._at, self._after = original, error, at, after

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        if self.calls == self._at and not self._after:
            raise self._error
        result = self._original(*arguments)
        if self.calls == self._at:
            raise self._error
        return result


@contextmanager
def failing(what: str, at: int) -> Iterator[FailsOnce]:
    """Make call number `at` of fsync, rename or commit fail; or a commit whose success is reported as failure."""
    full = OSError(errno.EIO, "Input/output error")
    if what == "commit" or what == "a commit's response":
        import sqlite3

        error = sqlite3.OperationalError("disk I/O error")
        fault = FailsOnce(DefaultDialect.do_commit, error, at, after=what != "commit")
        with patch.object(DefaultDialect, "do_commit", lambda self, connection: fault(self, connection)):
            yield fault
    else:
        name = {"fsync": "fsync", "rename": "replace"}[what]
        fault = FailsOnce(getattr(os, name), full, at)
        with patch(f"app.files.os.{name}", fault):
            yield fault


def run_here(site: Site, job: Job) -> None:
    """Run a queued job in this process, as a worker does.

    A database error ends it, as it ends a worker.
    """
    try:
        claimed = site.jobs.claim_next("here", now(), job_id=job.id)
        if claimed is not None:
            with JobLease(site.jobs, claimed) as lease:
                calibration_job.run_claimed(site.services, lease, calibration_job.EvaluationPlan(2, 64))
    except DatabaseError:
        pass


def broken(site: Site, job: Job) -> list[str]:
    """Partial state: records whose file has another sha256, temporary files, unreadable JSON files."""
    folder = site.services.runs.folder(job.run_id).path
    files = site.files(job.run_id) if folder.is_dir() else {}
    found = [f"block {block.block}" for block in site.services.storage.runs.blocks(job.run_id)
             if files.get(f"blocks/{block.block:03d}.safetensors") != block.sha256]  # fmt: skip
    found += [name for name in files if name.endswith(".tmp")]
    for path in folder.glob("*.json"):
        json.loads(path.read_bytes())
    return found


def check_faults(work: Path, short: bool) -> Outcome:
    """Three blocks (first, middle, last): more would only repeat the calls of the middle one."""
    site, counts, half, lost = Site(work, blocks=3), [], [], []
    for what in ("fsync", "rename", "commit", "a commit's response"):
        job = site.submit("rtn")
        with failing(what, 0) as undisturbed:
            run_here(site, job)
        reference = site.hashes(job.run_id)
        chosen = range(1, undisturbed.calls + 1, 16 if short else 1)
        counts.append(f"{len(chosen)} of {what}")
        for at in chosen:
            job = site.submit("rtn")
            with failing(what, at):
                run_here(site, job)
            half += [f"{what} {at}: {found}" for found in broken(site, job)]
            site.jobs.requeue_worker("here", now())
            if site.jobs.get(job.id).state == "failed":
                site.services.jobs.resume(job.id)
            run_here(site, job)
            if site.jobs.get(job.id).state != "succeeded" or site.hashes(job.run_id) != reference:
                lost.append(f"{what} {at}")
    return Outcome(
        f"injected faults: {', '.join(counts)}; {len(half)} partial writes, {len(lost)} jobs with different "
        f"blocks{''.join('; ' + text for text in (half + lost)[:3])}",
        not half and not lost,
    )


def check_full_disk(work: Path, short: bool) -> Outcome:
    """A real file system of a few MiB fills up during a job; then space is freed and the job resumed."""
    script = f"mount -t tmpfs -o size=64m none {work} && exec {sys.executable} {__file__} {work} {int(short)}"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 32 or "unshare" in done.stderr:
        return Outcome(f"not measured: a small file system cannot be mounted here ({done.stderr.strip()[:80]})", False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    return Outcome(
        f"{result['fills']} full disks: {result['unclear']} without a clear error, {result['half']} partial writes, "
        f"{result['lost']} jobs with different blocks after resuming",
        result["unclear"] == result["half"] == result["lost"] == 0,
    )


def fill_and_resume(work: Path, short: bool) -> dict[str, int]:
    """For several sizes: leave this much free space, run a job until it fails, free space, resume the job."""
    site = Site(work)
    job = site.submit("rtn")
    run_here(site, job)
    reference = site.hashes(job.run_id)
    result = {"fills": 0, "unclear": 0, "half": 0, "lost": 0}
    ballast = work / "ballast"
    for room in (0, 64, 200) if short else (0, 4, 16, 32, 64, 96, 128, 160, 200, 240, 280, 320):
        job = site.submit("rtn")
        leave_room(ballast, room * 1024)
        run_here(site, job)
        ballast.unlink()
        site.jobs.requeue_worker("here", now())
        result["fills"] += 1
        result["half"] += bool(broken(site, job))
        found = site.jobs.get(job.id)
        result["unclear"] += found.state == "failed" and "full" not in (found.error or "")
        if found.state == "failed":
            site.services.jobs.resume(job.id)
        run_here(site, job)
        result["lost"] += site.jobs.get(job.id).state != "succeeded" or site.hashes(job.run_id) != reference
    return result


def leave_room(ballast: Path, size: int) -> None:
    """Fill the file system of this file until `size` bytes are free."""
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(ballast.parent).free - size))


def check_old_databases(work: Path, short: bool) -> Outcome:
    """Open a stored database of every released schema, migrate it, and continue its jobs."""
    files, wrong = sorted(RELEASED.glob("*.sqlite3")), []
    for file in files:
        path = Path(shutil.copy(file, work))
        with Database.open(path) as database:
            jobs = Jobs(database)
            failed = jobs.list("failed")[0]
            jobs.resume(failed.id, now())
            claimed = jobs.claim_next("new", now(), job_id=failed.id)
            if claimed is None or not jobs.blocks(failed.run_id):
                wrong.append(file.stem)
                continue
            jobs.finish(claimed.id, claimed.epoch, now())
    return Outcome(f"{len(files)} released schemas ({', '.join(file.stem for file in files)}): {len(wrong)} failed to "
                   "open, migrate or resume", bool(files) and not wrong)  # fmt: skip


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    print(json.dumps(fill_and_resume(Path(sys.argv[1]), sys.argv[2] == "1")))
