"""A worker process (`python -m app.jobs.worker`): claims one job, runs it, exits.

The supervisor starts one per job.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from app.clock import now
from app.jobs.lease import JobLease
from app.jobs.parent_watchdog import ParentWatchdog, Stoppable
from app.settings import Settings
from kernels.host.priority import lower_priority


def main(arguments: list[str] | None = None) -> int:
    """Claim the oldest queued job and run it to its end. Returns 0, also if the queue is empty."""
    parser = argparse.ArgumentParser(prog="python -m app.jobs.worker", description=__doc__)
    parser.add_argument("--name", required=True, help="name of this worker in the queue")
    parser.add_argument("--parent", type=int, default=None, help="process id of the parent; the worker ends with it")
    options = parser.parse_args(arguments)
    return run_one(Settings.from_environment(), options.name, options.parent)


def run_one(settings: Settings, name: str, parent: int | None) -> int:
    """Claim one job and run it to its end.

    parent: process id; the worker ends when that process is gone. None: it may outlive its parent.
    The niceness of the settings applies once the job is claimed, so that the dashboard stays responsive while jobs use
    all cores. Not earlier: start-up takes seconds, in which the watchdog must get its share of the processor.
    """
    watchdog = None if parent is None else ParentWatchdog(parent)
    if watchdog is not None:
        watchdog.start()  # before the imports, which take seconds
    from app.services import open_services

    services = open_services(settings)
    job = services.storage.jobs.claim_next(name, now())
    if job is None:
        return 0
    lease = JobLease(services.storage.jobs, job)
    if watchdog is not None:
        watchdog.lease = lease
    with stop_on_signals(lease), lease:  # the heartbeat runs while torch is imported
        from app.jobs.calibration_job import run_claimed

        lower_priority(settings.niceness)
        run_claimed(services, lease)
    return 0


@contextlib.contextmanager
def stop_on_signals(work: Stoppable) -> Iterator[None]:
    """While the block runs, SIGTERM queues the job again at its next step."""

    def stop(number: int, frame: FrameType | None) -> None:
        work.stop("shutdown")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
