"""Run one job in the foreground, or follow the worker that already runs it."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

from app.clock import now
from app.jobs.lease import JobLease
from app.jobs.progress_line import ProgressLine
from app.jobs.worker import stop_on_signals
from app.services import Services
from storage.jobs import Job

POLL_SECONDS = 0.3


def bring_to_end(services: Services, job: Job, label: str, evaluation: tuple[int, int] | None = None) -> Job:
    """Run the job in this process, or follow the worker that claimed it first.

    Returns the job after it has ended.
    Ctrl-C cancels the job; it can be resumed.
    label: shown before the progress.  evaluation: segments, and tokens per segment, that its evaluation reads.
    """
    worker = f"{socket.gethostname()}-{os.getpid()}"
    with ProgressLine() as line:
        while (claimed := services.storage.jobs.claim_next(worker, now(), job_id=job.id)) is None:
            job = _follow(services, job, label, line)
            if job.state != "queued":
                return job
        from app.jobs.calibration_job import EvaluationPlan, run_claimed  # imports torch: only to run the job here

        lease = JobLease(services.storage.jobs, claimed)
        with _cancel_on_interrupt(lease) as interrupted, stop_on_signals(lease), lease:
            plan = EvaluationPlan(*evaluation) if evaluation else None
            run_claimed(services, lease, plan, lambda p: line.show(label, p.fraction, p.message, p.eta_seconds))
        if interrupted.is_set():
            raise KeyboardInterrupt(f"interrupted; continue with: abq jobs resume {job.id}")
        return services.jobs.get(job.id)


def _follow(services: Services, job: Job, label: str, line: ProgressLine) -> Job:
    """Show the job's progress until it has ended or is queued again because its worker died."""
    try:
        while (current := services.jobs.get(job.id)).state == "running":
            services.storage.jobs.requeue_expired(now())  # its worker may have died without a supervisor
            line.show(label, current.progress, current.message, current.eta_seconds)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        services.jobs.cancel(job.id)
        raise
    return current


@contextlib.contextmanager
def _cancel_on_interrupt(lease: JobLease) -> Iterator[threading.Event]:
    """Ctrl-C cancels the job at its next step; a second Ctrl-C ends the process at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
        lease.stop("cancelled")

    signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
