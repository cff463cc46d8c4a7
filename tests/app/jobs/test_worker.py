"""Real worker processes that are killed, stopped, cancelled or orphaned, and jobs that fail."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from app_cases import SpecMaker, settings_in, work_on
from safetensors.torch import load_file

from app.clock import now
from app.jobs.executors.local import PROJECT_ROOT, Supervisor
from app.jobs.executors.single_instance import SingleInstance
from app.jobs.lease import JobLease, JobStopped
from app.jobs.progress import Progress
from app.services import Services, open_services
from storage.errors import LostLeaseError
from storage.jobs import LEASE, Job

PATIENCE_SECONDS = 900.0  # only a hang takes this long; a loaded machine may need a minute to import torch


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(0.05)


StartWorker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start_worker(services: Services) -> Iterator[StartWorker]:
    """Starts worker processes; those still running at the end of the test are killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str = "test-worker", parent: int | None = None) -> "subprocess.Popen[bytes]":
        of = str(parent or os.getpid())
        worker = subprocess.Popen(
            [sys.executable, "-m", "app.jobs.worker", "--name", name, "--parent", of],
            env={**os.environ, **services.settings.to_environment()},
            cwd=PROJECT_ROOT,
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


def in_second_block(services: Services, job: Job) -> bool:
    """Whether the first block is recorded and the second one is being learned."""
    frame = services.jobs.losses(job.id)
    return services.jobs.get(job.id).blocks_done == 1 and bool((frame["block"] == 1).any())


def blocks_of(services: Services, job: Job) -> list[dict[str, object]]:
    return [load_file(services.runs.folder(job.run_id).block_path(block)) for block in (0, 1)]


def test_an_orphan_ends_before_it_claims(services: Services, tiny_spec: SpecMaker, start_worker: StartWorker) -> None:
    job = services.jobs.submit(tiny_spec())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert start_worker(parent=dead.pid).wait(PATIENCE_SECONDS) == 1
    assert (services.jobs.get(job.id).state, services.jobs.get(job.id).epoch) == ("queued", 0)


STUCK = """
import sys, time
from app.clock import now
from app.jobs.lease import JobLease
from app.jobs.parent_watchdog import ParentWatchdog
from app.services import Services, open_services
from app.settings import Settings
services = open_services(Settings.from_environment())
with JobLease(services.storage.jobs, services.storage.jobs.claim_next("stuck", now())) as lease:
    watch = ParentWatchdog(int(sys.argv[1]))
    watch.lease = lease
    watch.start()
    time.sleep(1000)
"""
PARENT = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])"


def test_an_orphan_that_cannot_stop_requeues_its_job(services: Services, tiny_spec: SpecMaker) -> None:
    """A job fails after three deaths, so pages killed while their workers start must not count."""
    job = services.jobs.submit(tiny_spec())
    environment = {**os.environ, **services.settings.to_environment()}
    parent = psutil.Popen([sys.executable, "-c", PARENT, STUCK], env=environment, cwd=PROJECT_ROOT)
    wait_until(lambda: services.jobs.get(job.id).state == "running", "the worker has the job")
    (worker,) = parent.children()
    parent.kill()
    parent.wait()
    wait_until(lambda: not worker.is_running(), "the orphan ends")
    found = services.jobs.get(job.id)
    assert (found.state, found.attempts, found.worker) == ("queued", 0, None)
    assert "lost its parent" in services.jobs.log(job.id)


def test_a_job_killed_in_a_block_resumes_to_the_same_tensors(
    services: Services, tiny_spec: SpecMaker, start_worker: StartWorker, tmp_path: Path
) -> None:
    spec = tiny_spec(epochs=25)
    job = services.jobs.submit(spec)
    worker = start_worker()
    wait_until(lambda: in_second_block(services, job), "the second block began")
    worker.kill()
    worker.wait()
    first = services.runs.folder(job.run_id).block_path(0)
    kept = (first.read_bytes(), first.stat().st_mtime_ns)
    assert services.jobs.get(job.id).state == "running" and not services.runs.folder(job.run_id).block_path(1).exists()

    services.storage.jobs.requeue_worker("test-worker", now())
    again = start_worker("second-worker")
    assert again.wait(PATIENCE_SECONDS) == 0
    assert services.jobs.get(job.id).state == "succeeded", services.jobs.log(job.id)
    assert (first.read_bytes(), first.stat().st_mtime_ns) == kept, "a finished block was computed again"

    other = open_services(settings_in(tmp_path / "uninterrupted"))
    untouched = work_on(other, other.jobs.submit(spec))
    for mine, reference in zip(blocks_of(services, job), blocks_of(other, untouched), strict=True):
        assert mine.keys() == reference.keys()
        assert all(mine[name].equal(reference[name]) for name in mine)


def in_end_to_end_pass(services: Services, job: Job) -> bool:
    """Whether both blocks are drafts and the end-to-end pass has recorded a loss."""
    frame = services.jobs.losses(job.id)
    return services.jobs.get(job.id).blocks_done == 2 and bool((frame["block"] == 2).any())


def test_a_job_killed_in_the_end_to_end_pass_resumes_to_the_same_tensors(
    services: Services, tiny_spec: SpecMaker, start_worker: StartWorker, tmp_path: Path
) -> None:
    text = tmp_path / "words.txt"
    words = random.Random(0)
    text.write_text(" ".join(words.choice(("import", "def", "return", "the", "of")) for _ in range(200_000)))
    spec = tiny_spec("W2A8", "abq+", data=str(text), end_to_end_segments=5000)
    job = services.jobs.submit(spec)
    worker = start_worker()
    wait_until(lambda: in_end_to_end_pass(services, job), "the pass began")
    worker.kill()
    worker.wait()
    folder = services.runs.folder(job.run_id)
    drafts = [folder.draft_path(block).read_bytes() for block in (0, 1)]
    assert services.jobs.get(job.id).state == "running" and not folder.block_path(0).exists()

    services.storage.jobs.requeue_worker("test-worker", now())
    assert start_worker("second-worker").wait(PATIENCE_SECONDS) == 0
    assert services.jobs.get(job.id).state == "succeeded", services.jobs.log(job.id)
    assert "already stored" in services.jobs.log(job.id), "a draft was computed again"
    assert not any(folder.draft_path(block).exists() for block in (0, 1)) and all(drafts)

    other = open_services(settings_in(tmp_path / "uninterrupted"))
    untouched = work_on(other, other.jobs.submit(spec))
    for mine, reference in zip(blocks_of(services, job), blocks_of(other, untouched), strict=True):
        assert all(mine[name].equal(reference[name]) for name in mine)


def test_the_supervisor_runs_requeues_and_cancels(services: Services, tiny_spec: SpecMaker) -> None:
    supervisor = Supervisor(services.settings, services.storage.jobs)
    job = services.jobs.submit(tiny_spec(epochs=1000))
    supervisor.start()
    try:
        wait_until(lambda: len(services.jobs.losses(job.id)) > 0, "the job is being learned")
        process_of(services.jobs.get(job.id)).kill()
        wait_until(lambda: "exited" in services.jobs.log(job.id), "the supervisor noticed the death")
        wait_until(lambda: services.jobs.get(job.id).epoch == 2, "the job was claimed again")
        services.jobs.cancel(job.id)
        wait_until(lambda: services.jobs.get(job.id).state == "cancelled", "the job was cancelled")
    finally:
        supervisor.stop()


def test_a_worker_that_was_stopped_for_longer_than_its_lease_is_killed(
    services: Services, tiny_spec: SpecMaker
) -> None:
    seconds = [0.0]
    supervisor = Supervisor(services.settings, services.storage.jobs, clock=lambda: seconds[0])
    job = services.jobs.submit(tiny_spec(epochs=1000))
    supervisor.step()
    wait_until(lambda: services.jobs.get(job.id).state == "running", "the job is claimed")
    worker = process_of(services.jobs.get(job.id))
    try:
        wait_until(lambda: stopped_outside_a_transaction(worker, services), "it is stopped")
        for seconds[0] in (1.0, 31.0):
            supervisor.step()
            assert worker.is_running()
        seconds[0] = 31.5
        supervisor.step()
        assert not worker.is_running()
        assert (services.jobs.get(job.id).state, services.jobs.get(job.id).attempts) == ("queued", 1)
    finally:
        supervisor.stop()


def stopped_outside_a_transaction(worker: psutil.Process, services: Services) -> bool:
    """Stop the process; if it holds a lock of the database, let it continue and return False."""
    worker.suspend()
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED, "it is stopped")
    connection = sqlite3.connect(services.settings.data_dir / "abq.sqlite3", timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        return True
    except sqlite3.OperationalError:
        worker.resume()
        return False
    finally:
        connection.close()


def process_of(job: Job) -> psutil.Process:
    """The process of a job's worker, found by the name in its command line."""
    assert job.worker
    running = psutil.process_iter(["cmdline"])
    return next(process for process in running if job.worker in (process.info["cmdline"] or []))


def test_sigterm_requeues_the_job(services: Services, tiny_spec: SpecMaker, start_worker: StartWorker) -> None:
    job = services.jobs.submit(tiny_spec(epochs=1000))
    worker = start_worker()
    wait_until(lambda: len(services.jobs.losses(job.id)) > 0, "the job is being learned")
    worker.terminate()
    assert worker.wait(PATIENCE_SECONDS) == 0
    assert services.jobs.get(job.id).state == "queued"


def test_a_worker_without_its_supervisor_requeues_its_job_and_ends(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec(epochs=1000))
    environment = {**os.environ, **services.settings.to_environment()}
    supervisor = subprocess.Popen([sys.executable, "-m", "app.cli", "worker"], env=environment, cwd=PROJECT_ROOT)
    try:
        wait_until(lambda: len(services.jobs.losses(job.id)) > 0, "the job is being learned")
        worker = process_of(services.jobs.get(job.id))
    finally:
        supervisor.kill()
        supervisor.wait()
    killed = time.monotonic()
    wait_until(lambda: services.jobs.get(job.id).state == "queued", "the job was queued again")
    wait_until(lambda: not worker.is_running(), "the worker ended")
    assert time.monotonic() - killed < LEASE.total_seconds()


def test_a_failed_job_says_why_in_a_sentence_and_can_be_resumed(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("app.files.os.fsync", full)
        job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    assert job.state == "failed" and job.error is not None
    assert "disk" in job.error and "full" in job.error and "Traceback" not in job.error
    assert "Traceback" in services.jobs.log(job.id)
    assert work_on(services, services.jobs.resume(job.id)).state == "succeeded"


def test_a_stale_owner_writes_nothing(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec("W4A4", "rtn"))
    stale = services.storage.jobs.claim_next("stale", now(), timedelta(seconds=-1), job_id=job.id)
    assert stale is not None
    services.storage.jobs.requeue_expired(now())
    current = services.storage.jobs.claim_next("current", now(), job_id=job.id)
    assert current is not None
    lease = JobLease(services.storage.jobs, stale)
    with pytest.raises(LostLeaseError):
        lease.assert_owned()
    from app.jobs.calibration_job import run_claimed

    run_claimed(services, lease)
    assert not services.runs.folder(job.run_id).block_path(0).exists()
    assert services.jobs.get(job.id).worker == "current" and services.jobs.get(job.id).state == "running"


def test_a_lease_notices_a_cancel_and_its_loss(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec())
    claimed = services.storage.jobs.claim_next("one", now(), job_id=job.id)
    assert claimed is not None
    with JobLease(services.storage.jobs, claimed) as lease:
        services.jobs.cancel(job.id)
        wait_until(lambda: stopped(lease) == "cancelled", "the cancel was seen")
        services.storage.jobs.end_cancelled(job.id, claimed.epoch, now())
        services.jobs.resume(job.id)
        services.storage.jobs.claim_next("two", now(), job_id=job.id)
        wait_until(lambda: stopped(lease) == "lost", "the loss was seen")


def test_the_heartbeat_continues_while_the_main_thread_computes(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.lease.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("app.jobs.lease.POLL_SECONDS", 0.01)
    job = services.jobs.submit(tiny_spec())
    claimed = services.storage.jobs.claim_next("one", now(), job_id=job.id)
    assert claimed is not None
    beats: set[object] = set()
    heartbeat = services.storage.jobs.heartbeat
    monkeypatch.setattr(services.storage.jobs, "heartbeat", lambda *given: beats.add(given[2]) or heartbeat(*given))
    deadline = time.monotonic() + PATIENCE_SECONDS
    with JobLease(services.storage.jobs, claimed):
        number = 1
        while len(beats) < 5 and time.monotonic() < deadline:
            number = number * 48271 % 2147483647  # never checks the lease, never sleeps
    assert len(beats) >= 5
    found = services.jobs.get(job.id)
    assert found.lease_until is not None and claimed.lease_until is not None
    assert found.lease_until > claimed.lease_until and found.epoch == claimed.epoch


def stopped(lease: JobLease) -> str | None:
    try:
        lease.check()
    except JobStopped as stop:
        return stop.reason
    return None


def test_one_supervisor_is_active_per_folder(tmp_path: Path) -> None:
    one, two = SingleInstance(tmp_path / "lock"), SingleInstance(tmp_path / "lock")
    assert one.acquire() and one.acquire() and not two.acquire()
    one.release()
    assert two.acquire()
    two.release()


def test_progress_never_falls_and_adopted_blocks_do_not_count_towards_the_rate() -> None:
    from abq_core.events import BlockDone, Started, StepDone

    seconds = [0.0]
    progress = Progress(learns=True, clock=lambda: seconds[0])
    progress.calibration_event(Started(4, 16))
    assert progress.eta_seconds is None
    seconds[0] = 5.0
    progress.calibration_event(BlockDone(0, 5.0, None, {}))
    assert progress.eta_seconds is None and progress.fraction == pytest.approx(0.2)
    for step in range(1, 17):
        seconds[0] += 10 / 16
        progress.calibration_event(StepDone(1, step, 16))
    seen = progress.fraction
    assert progress.eta_seconds == pytest.approx(10.0 * (1 - seen) / (seen - 0.2))
    progress.calibration_event(StepDone(1, 1, 16))
    assert progress.fraction == seen
    progress.evaluating(1.0)
    assert progress.fraction == 1.0
