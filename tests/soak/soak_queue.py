"""Checks of the queue with many processes on one database.

Claims, order, progress with a concurrent reader.
"""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from promise import Outcome, percentile

from storage.database import Database
from storage.jobs import Jobs

RACE = Path(__file__).parents[1] / "cases" / "claim_race.py"
SPEC = {"model": "builtin", "precision": "W4A4", "method": "abq"}
READ_SECONDS = 0.5


def now() -> datetime:
    return datetime.now(UTC)


def race(work: Path, *options: str) -> dict[str, Any]:
    """One race on a new database."""
    path = work / f"race-{time.monotonic_ns()}.db"
    command = [sys.executable, str(RACE), f"sqlite:///{path}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."})
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check_claims(work: Path, short: bool) -> Outcome:
    rounds, jobs = (2, 250) if short else (5, 1000)
    results = [race(work, "--processes", "8", "--jobs", str(jobs)) for _ in range(rounds)]
    doubles = sum(result["doubles"] for result in results)
    errors = sum(len(result["errors"]) for result in results)
    claimed = sum(result["claimed"] for result in results)
    slowest = max(result["p99_ms"] for result in results)
    return Outcome(
        f"8 processes x {jobs} jobs x {rounds} rounds: {doubles} double claims, {errors} errors, "
        f"p99 {', '.join(format(result['p99_ms'], '.0f') for result in results)} ms",
        doubles == 0 and errors == 0 and claimed == rounds * jobs and slowest <= 200,
    )


def check_naive_claims(work: Path, short: bool) -> Outcome:
    jobs = 20 if short else 200
    result = race(work, "--claim", "naive", "--processes", "8", "--jobs", str(jobs))
    return Outcome(f"{result['doubles']} double claims in {jobs} jobs", result["doubles"] > 0)


def check_order(work: Path, short: bool) -> Outcome:
    count = 100 if short else 500
    with Database.open(work / "order.db") as database:
        jobs = Jobs(database)
        submitted = [jobs.submit(SPEC, now()).id for _ in range(count)]
        claimed = []
        while job := jobs.claim_next("one", now()):
            claimed.append(job.id)
            jobs.finish(job.id, job.epoch, now())
    return Outcome(f"{count} jobs, {sum(a != b for a, b in zip(submitted, claimed, strict=True))} out of order",
                   submitted == claimed)  # fmt: skip


def update(url: str, name: str, updates: int, results: Any) -> None:
    """Claim a job and write its progress `updates` times."""
    with Database.open(url) as database:
        jobs = Jobs(database)
        job = jobs.claim_next(name, now())
        assert job is not None
        errors = 0
        for number in range(1, updates + 1):
            try:
                jobs.progress(job.id, job.epoch, now(), number / updates, f"update {number}")
            except Exception:
                errors += 1
        results.put((job.id, errors))


def check_progress(work: Path, short: bool) -> Outcome:
    updates, url = (60 if short else 1000), f"sqlite:///{work / 'progress.db'}"
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    with Database.open(url) as database:
        jobs = Jobs(database)
        ids = [jobs.submit(SPEC, now()).id for _ in range(8)]
        writers = [spawn.Process(target=update, args=(url, f"w{number}", updates, results)) for number in range(8)]
        for writer in writers:
            writer.start()
        seen: dict[str, list[float]] = {job_id: [] for job_id in ids}
        reads: list[float] = []
        while any(writer.is_alive() for writer in writers):
            start = time.perf_counter()
            found = jobs.list("running")
            reads.append(1000 * (time.perf_counter() - start))
            for job in found:
                seen[job.id].append(job.progress)
            time.sleep(READ_SECONDS)
        errors = sum(results.get()[1] for _ in writers)
        for writer in writers:
            writer.join()
        final = [jobs.get(job_id).message for job_id in ids]
    lost = errors + sum(message != f"update {updates}" for message in final)
    falls = sum(b < a for values in seen.values() for a, b in itertools.pairwise(values))
    return Outcome(
        f"8 x {updates} updates: {lost} lost, {falls} decreases, {len(reads)} reads, p95 "
        f"{percentile(reads, 0.95):.0f} ms, longest {max(reads):.0f} ms",
        lost == 0 and falls == 0 and percentile(reads, 0.95) <= 50,
    )
