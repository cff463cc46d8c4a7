"""Bringing one job to its end in front of a person: work on it here, or watch the worker that has it."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from app import formatting
from app.clock import now
from app.jobs.lease import JobLease
from app.jobs.worker import stop_on_signals
from app.services import Explorer
from storage.jobs import Job

LOOK_SECONDS = 0.3
LINE_SECONDS = 5.0


class ProgressLine:
    """One line on stderr that moves; where stderr is no terminal, a line now and then."""

    def __init__(self) -> None:
        self._moves = sys.stderr.isatty()
        self._shown = ""
        self._at = float("-inf")

    def show(self, label: str, fraction: float, message: str, eta_seconds: float | None) -> None:
        """Say how far the job is."""
        eta = "" if eta_seconds is None else f", {formatting.seconds(eta_seconds)} left"
        line = f"{label}  {100 * fraction:5.1f} %{eta}  {message}"
        if line == self._shown or (not self._moves and time.monotonic() - self._at < LINE_SECONDS):
            return
        sys.stderr.write(f"\r\x1b[K{line[:150]}" if self._moves else line + "\n")
        sys.stderr.flush()
        self._shown, self._at = line, time.monotonic()

    def close(self) -> None:
        """Leave the line."""
        if self._moves and self._shown:
            sys.stderr.write("\r\x1b[K")


def bring_to_end(explorer: Explorer, job: Job, label: str, evaluation: tuple[int, int] | None = None) -> Job:
    """Run the job in this process, or watch it where a worker was quicker. Ctrl-C cancels it; it can be resumed.

    evaluation: segments and tokens a segment that its evaluation reads.
    """
    line = ProgressLine()
    worker = f"{socket.gethostname()}-{os.getpid()}"
    try:
        while (claimed := explorer.jobs.claim_next(worker, now(), job_id=job.id)) is None:
            job = _watch(explorer, job, label, line)
            if job.state != "queued":
                return job
        from app.jobs.calibration_job import EvaluationPlan, run_claimed

        lease = JobLease(explorer.jobs, claimed)
        with _stop_on_interrupt(lease), stop_on_signals(lease), lease:
            plan = EvaluationPlan(*evaluation) if evaluation else None
            run_claimed(explorer, lease, plan, lambda p: line.show(label, p.fraction, p.message, p.eta_seconds))
        return explorer.job(job.id)
    finally:
        line.close()


def _watch(explorer: Explorer, job: Job, label: str, line: ProgressLine) -> Job:
    """Until it has ended, or waits in the queue again: a worker without a supervisor may have died."""
    try:
        while (current := explorer.job(job.id)).state == "running":
            explorer.jobs.requeue_expired(now())
            line.show(label, current.progress, current.message, current.eta_seconds)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        explorer.cancel(job.id)
        raise
    return current


@contextlib.contextmanager
def _stop_on_interrupt(lease: JobLease) -> Iterator[None]:
    """Ctrl-C cancels the job at its next step; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        lease.stop("cancelled")

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
