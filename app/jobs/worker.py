"""A worker process (`python -m app.jobs.worker`): claims one job, runs it, exits. The supervisor starts one per job."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from app.clock import now
from app.jobs.lease import JobLease
from app.jobs.parent_watchdog import ParentWatch, Stoppable
from app.settings import Settings
from kernels.host.priority import NICENESS, lower_priority


def main(arguments: list[str] | None = None) -> int:
    """Claim the oldest queued job and run it to its end. Returns 0, also where the queue is empty."""
    parser = argparse.ArgumentParser(prog="python -m app.jobs.worker", description=__doc__)
    parser.add_argument("--name", required=True, help="what the queue calls this worker")
    parser.add_argument("--parent", type=int, default=None, help="process without which this one stops")
    parser.add_argument("--nice", type=int, default=NICENESS, help="how far to stand back for other processes")
    options = parser.parse_args(arguments)
    return run_one(Settings.from_environment(), options.name, options.parent, options.nice)


def run_one(settings: Settings, name: str, parent: int | None, niceness: int = 0) -> int:
    """The life of a worker between start and end. parent: process without which it ends; None: it may outlive any.

    It stands back once it works: the page stays responsive while jobs take all cores. A start takes seconds, in which
    only a worker that gets its share can see that its parent has gone.
    """
    watch = None if parent is None else ParentWatch(parent)
    if watch is not None:
        watch.start()  # before the imports, which take seconds
    from app.services import open_services

    services = open_services(settings)
    job = services.storage.jobs.claim_next(name, now())
    if job is None:
        return 0
    lease = JobLease(services.storage.jobs, job)
    if watch is not None:
        watch.held = lease
    with stop_on_signals(lease), lease:  # the lease is held while torch is imported
        from app.jobs.calibration_job import run_claimed

        lower_priority(niceness)
        run_claimed(services, lease)
    return 0


@contextlib.contextmanager
def stop_on_signals(held: Stoppable) -> Iterator[None]:
    """SIGTERM puts the job back into the queue at its next step."""

    def stop(number: int, frame: FrameType | None) -> None:
        held.stop("shutdown")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
