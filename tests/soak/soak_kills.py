"""Checks with workers that are killed, stopped or busy.

Blocks are kept, deaths noticed, live workers left alone.
"""

import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
from promise import Outcome, wait_until
from soak_workers import BLOCKS, DieAt, Site, ended, start_busy
from sqlalchemy import text

from app.clock import now
from app.jobs.executors.local import Supervisor
from storage.database import Database
from storage.jobs import Job


@dataclass
class Kills:
    """Counts over all kills: lost blocks, most blocks to recompute after one kill, jobs with other hashes, and more."""

    killed: int = 0
    lost: int = 0
    redone: int = 0
    different: int = 0
    damaged: int = 0
    resumed: int = 0
    finished: int = 0

    def check_blocks(self, site: Site, job: Job, before: list[str]) -> None:
        """Compare the recorded blocks with those before the kill, and with the files."""
        after = site.hashes(job.run_id)
        files = site.files(job.run_id) if site.services.runs.folder(job.run_id).path.is_dir() else {}
        there = [files.get(f"blocks/{block:03d}.safetensors") for block in range(BLOCKS)]
        self.lost += sum(a != b for a, b in zip(before, after, strict=False))
        self.lost += sum(recorded != file for recorded, file in zip(after, there, strict=False))
        unrecorded = sum(file is not None for file in there[len(after) :])
        self.redone = max(self.redone, unrecorded)  # a block file without a record is computed again
        self.damaged += integrity(site) != "ok"


def check_kills(work: Path, short: bool) -> Outcome:
    """Kill workers at random moments; check every block and the database after each kill.

    They learn for one epoch: the shorter the optimisation, the more kills hit the writing of a finished block.
    """
    kills = 8 if short else 200
    site, chance, counts = Site(work), random.Random(0), Kills()
    reference = site.uninterrupted(epochs=1)
    started = time.monotonic()
    site.uninterrupted(epochs=1)
    life = time.monotonic() - started
    job = site.submit(epochs=1)
    while counts.killed < kills:
        before = site.hashes(job.run_id)
        name = f"w{counts.killed}"
        worker = site.start(name)
        worker.join(chance.uniform(0.0, life))
        counts.killed += worker.exitcode is None
        worker.kill()
        worker.join()
        site.jobs.requeue_worker(name, now())
        counts.check_blocks(site, job, before)
        state = site.jobs.get(job.id).state
        if state == "failed":  # three kills in one block: it waits for a person, as promised
            site.services.jobs.resume(job.id)
            counts.resumed += 1
        elif state == "succeeded":
            counts.different += site.hashes(job.run_id) != reference
            counts.finished += 1
            job = site.submit(epochs=1)
    while site.jobs.get(job.id).state != "succeeded":
        if site.jobs.get(job.id).state == "failed":
            site.services.jobs.resume(job.id)
        site.finish()
    counts.different += site.hashes(job.run_id) != reference
    return Outcome(
        f"{counts.killed} kills over {counts.finished + 1} jobs: {counts.lost} blocks lost, at most {counts.redone} "
        f"recomputed after a kill, {counts.different} jobs with different hashes, {counts.damaged} failed integrity "
        f"checks ({counts.resumed} jobs needed a manual resume after 3 kills in one block)",
        (counts.lost, counts.different, counts.damaged) == (0, 0, 0) and counts.redone <= 1,
    )


def integrity(site: Site) -> object:
    with Database.open(site.settings.database_url) as database, database.reading() as session:
        return session.scalar(text("PRAGMA integrity_check"))


def check_resume(work: Path, short: bool) -> Outcome:
    """Kill inside each block and at each block boundary, before and after the block is recorded."""
    site = Site(work)
    reference = site.uninterrupted()
    blocks = (1,) if short else range(BLOCKS)
    deaths: list[DieAt] = [(where, block) for block in blocks for where in ("inside", "before", "after")]
    different = []
    for where, block in deaths:
        job = site.submit()
        victim = site.start("victim", (where, block))
        victim.join()
        if victim.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"not killed {where} block {block}: {site.services.jobs.log(job.id)}")
        site.jobs.requeue_worker("victim", now())
        site.finish()
        if site.jobs.get(job.id).state != "succeeded" or site.hashes(job.run_id) != reference:
            different.append(f"{where} block {block}")
    return Outcome(
        f"{len(deaths)} kills (inside a block, before and after recording it): {len(different)} with different tensors"
        f"{': ' + ', '.join(different) if different else ''}",
        not different,
    )


def check_stale(work: Path, short: bool) -> Outcome:
    """A worker is stopped for longer than its lease, another takes the job over, then the first continues."""
    rounds, written, waited = (1 if short else 5), 0, []
    site = Site(work)
    for number in range(rounds):
        job = site.submit(epochs=20)
        stale = site.start(f"stale-{number}")
        with ended(stale):
            wait_until(
                lambda job=job, done=1 + number % 3: site.jobs.get(job.id).blocks_done >= done, "a block was done"
            )
            stop_outside_a_write(site, stale.pid or 0)
            waited.append(wait_until(lambda: bool(site.jobs.requeue_expired(now())), "the lease ran out"))
            site.finish(f"taker-{number}")
            before = everything(site, job)
            os.kill(stale.pid or 0, signal.SIGCONT)
            stale.join()
            written += before != everything(site, job)
            written += site.jobs.get(job.id).state != "succeeded"
    return Outcome(
        f"{rounds} workers stopped for at least {min(waited):.0f} s and continued after the takeover: {written} wrote",
        written == 0,
    )


def stop_outside_a_write(site: Site, process: int) -> None:
    """Send SIGSTOP outside a transaction; inside one it would block all writers, so continue and try again."""
    while True:
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.05)  # SIGSTOP takes effect asynchronously
        connection = sqlite3.connect(site.settings.data_dir / "abq.sqlite3", timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            os.kill(process, signal.SIGCONT)
        finally:
            connection.close()


def everything(site: Site, job: Job) -> tuple[object, ...]:
    """Every row and every file of a job."""
    jobs = site.jobs
    return jobs.get(job.id), jobs.logs(job.id), jobs.losses(job.id), jobs.blocks(job.run_id), site.files(job.run_id)


def check_dead(work: Path, short: bool) -> Outcome:
    """Kill a worker: seconds until its job is queued again, with and without a parent that sees the exit."""
    rounds, seen, unseen = (1 if short else 5), [], []
    site = Site(work)
    for number in range(rounds):
        job = site.submit(epochs=1000)
        supervisor = Supervisor(site.settings, site.jobs)
        supervisor.start()
        try:
            wait_until(lambda job=job: site.learning(job), "the job is being learned")
            name = site.jobs.get(job.id).worker or ""
            worker_process(name).kill()
            seen.append(wait_until(lambda job=job: "exited" in site.services.jobs.log(job.id), "the parent saw it"))
        finally:
            supervisor.stop()
        site.services.jobs.cancel(job.id)

        job = site.submit(epochs=1000)
        worker = site.start(f"unseen-{number}")
        with ended(worker):
            wait_until(lambda job=job: site.learning(job), "the job is being learned")
        unseen.append(wait_until(lambda: bool(site.jobs.requeue_expired(now())), "the lease ran out"))
        site.services.jobs.cancel(job.id)
    return Outcome(
        f"{rounds} kills each: queued again after {max(seen):.1f} s with a supervisor, {max(unseen):.1f} s by lease "
        "expiry",
        max(seen) <= 2 and max(unseen) <= 35,
    )


def worker_process(name: str) -> psutil.Process:
    """A supervisor's worker process, found by the name in its command line."""
    return next(
        process for process in psutil.process_iter(["cmdline"]) if name and name in (process.info["cmdline"] or [])
    )


def check_busy(work: Path, short: bool) -> Outcome:
    """The main thread is busy for 120 s: no other worker may take the job."""
    seconds = 33.0 if short else 120.0
    site, rescues, narrowest = Site(work), 0, timedelta.max
    job = site.submit()
    worker = start_busy(site, "busy", seconds)
    with ended(worker):
        while worker.is_alive():
            rescues += len(site.jobs.requeue_expired(now()))
            if lease := site.jobs.get(job.id).lease_until:
                narrowest = min(narrowest, lease - now())
            threading.Event().wait(0.5)
    ended_well = site.jobs.get(job.id).state == "succeeded"
    return Outcome(
        f"main thread busy for {seconds:.0f} s: {rescues} takeovers, at least {narrowest.total_seconds():.0f} s "
        "of the lease left",
        rescues == 0 and ended_well,
    )
