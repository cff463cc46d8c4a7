"""Checks of cancelling.

In every state, while running, while hanging, during a finish; and jobs that kill workers.
"""

import threading
from pathlib import Path

import psutil
from promise import Outcome, percentile, wait_until
from soak_kills import stop_outside_a_write, worker_process
from soak_workers import Site, ended

from app.clock import now
from app.jobs.executors.local import Supervisor
from storage.database import Database
from storage.jobs import Job, Jobs

SPEC = {"model": "builtin", "precision": "W4A4", "method": "abq"}


def check_cancel(work: Path, short: bool) -> Outcome:
    """Cancel in every state of the queue, cancel running workers, and cancel one that hangs."""
    wrong = sum(not cancels_correctly(work, state) for state in AFTER_CANCEL)
    site, seconds = Site(work), []
    for number in range(5 if short else 40):
        job = site.submit(epochs=1000)
        worker = site.start(f"w{number}")
        with ended(worker):
            wait_until(lambda job=job: site.learning(job), "the job is being learned")
            site.services.jobs.cancel(job.id)
            seconds.append(wait_until(lambda job=job: site.jobs.get(job.id).state == "cancelled", "it stopped"))
    hung = cancel_hung(site)
    return Outcome(
        f"{len(AFTER_CANCEL)} states: {wrong} wrong; {len(seconds)} running jobs stopped within "
        f"{percentile(seconds, 0.95):.1f} s (p95); a hung job was killed after {hung:.1f} s",
        wrong == 0 and percentile(seconds, 0.95) <= 2 and hung <= 16,
    )


AFTER_CANCEL = {"queued": "cancelled", "running": "running", "succeeded": "succeeded", "failed": "failed",
                "cancelled": "cancelled"}  # fmt: skip


def cancels_correctly(work: Path, state: str) -> bool:
    """Bring a job into a state, cancel it, and let its worker, if any, stop."""
    with Database.open(work / f"{state}.db") as database:
        jobs = Jobs(database)
        job = jobs.submit(SPEC, now())
        if state != "queued":
            claimed = jobs.claim_next("w", now())
            assert claimed is not None
            ids = (claimed.id, claimed.epoch, now())
            if state == "succeeded":
                jobs.finish(*ids)
            elif state == "failed":
                jobs.fail(*ids, "no")
            elif state == "cancelled":
                jobs.end_cancelled(*ids)
        jobs.request_cancel(job.id, now())
        found = jobs.get(job.id)
        right = found.state == AFTER_CANCEL[state] and found.cancel_requested == (state == "running")
        if state == "running":
            cancelled = jobs.heartbeat(job.id, found.epoch, now())
            right = right and cancelled and jobs.end_cancelled(job.id, found.epoch, now()).state == "cancelled"
        return right


def cancel_hung(site: Site) -> float:
    """Seconds between the cancel of a job whose process hangs (is stopped) and the end of that process."""
    job = site.submit(epochs=1000)
    supervisor = Supervisor(site.settings, site.jobs)
    supervisor.start()
    try:
        wait_until(lambda: site.learning(job), "the job is being learned")
        process = worker_process(site.jobs.get(job.id).worker or "")
        stop_outside_a_write(site, process.pid)
        site.services.jobs.cancel(job.id)
        seconds = wait_until(lambda: not psutil.pid_exists(process.pid), "its process is gone")
        wait_until(lambda: site.jobs.get(job.id).state == "cancelled", "it is cancelled")
        return seconds
    finally:
        supervisor.stop()


def check_cancel_races(work: Path, short: bool) -> Outcome:
    """A worker finishes while a person cancels: exactly one final state, which never changes."""
    rounds, states, wrong = (20 if short else 100), [], 0
    with Database.open(work / "races.db") as one, Database.open(work / "races.db") as two:
        worker, person = Jobs(one), Jobs(two)
        for _ in range(rounds):
            worker.submit(SPEC, now())
            job = worker.claim_next("w", now())
            assert job is not None
            race(worker, person, job)
            found = worker.get(job.id)
            states.append(found.state)
            wrong += found.state not in ("succeeded", "cancelled") or found.cancel_requested or not found.finished_at
            person.request_cancel(job.id, now())
            wrong += worker.get(job.id) != found or worker.claim_next("w", now()) is not None
    return Outcome(
        f"{rounds} races: {states.count('succeeded')} finished, {states.count('cancelled')} cancelled, {wrong} "
        "in another state",
        wrong == 0,
    )


def race(worker: Jobs, person: Jobs, job: Job) -> None:
    together = threading.Barrier(2)

    def work() -> None:
        together.wait()
        if worker.heartbeat(job.id, job.epoch, now()):
            worker.end_cancelled(job.id, job.epoch, now())
        else:
            worker.finish(job.id, job.epoch, now())

    def cancel() -> None:
        together.wait()
        person.request_cancel(job.id, now())

    threads = [threading.Thread(target=work), threading.Thread(target=cancel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check_poison(work: Path, short: bool) -> Outcome:
    """A job whose worker dies each time, queued before others: it fails after three attempts, the others succeed."""
    site = Site(work)
    poison, *others = [site.submit(), *(site.submit("rtn") for _ in range(1 if short else 3))]
    deaths = 0
    supervisor = Supervisor(site.settings, site.jobs)
    supervisor.start()
    try:
        while (job := site.jobs.get(poison.id)).state in ("queued", "running"):
            if job.state == "running" and job.epoch > deaths:
                worker_process(job.worker or "").kill()
                deaths += 1
        wait_until(lambda: all(site.jobs.get(job.id).state == "succeeded" for job in others), "the others ended")
    finally:
        supervisor.stop()
    return Outcome(
        f"{site.jobs.get(poison.id).state} after {deaths} crashes; {len(others)} of {len(others)} other jobs succeeded",
        site.jobs.get(poison.id).state == "failed" and deaths == 3,
    )
