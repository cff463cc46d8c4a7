"""Processes that race to claim jobs from an empty database.

`python claim_race.py URL --processes 8 --jobs 1000`.
`--claim naive` selects and updates in two transactions, as an ORM does by default, with a barrier in between: it must
claim jobs twice, which shows that the race detects double claims. Prints one JSON object.
"""

import argparse
import json
import multiprocessing
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import select, update

from storage.database import Database
from storage.jobs import Jobs
from storage.schema import JobRow

SPEC = {"model": "builtin", "precision": "W4A4", "method": "abq"}
PATIENCE = 60


def claim_with_jobs(database: Database, worker: str, together: Barrier) -> str | None:
    job = Jobs(database).claim_next(worker, datetime.now(UTC))
    return None if job is None else job.id


def claim_naively(database: Database, worker: str, together: Barrier) -> str | None:
    with database.reading() as session:
        oldest = select(JobRow.id).where(JobRow.state == "queued").order_by(JobRow.number).limit(1)
        job_id = session.scalar(oldest)
    together.wait(PATIENCE)
    if job_id is not None:
        lease_until = datetime.now(UTC) + timedelta(seconds=30)
        with database.transaction() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(state="running", lease_until=lease_until))
    together.wait(PATIENCE)
    return job_id


CLAIMS = {"jobs": claim_with_jobs, "naive": claim_naively}


def race(url: str, claim: str, worker: str, together: Barrier, results: Any) -> None:
    """Claim until the queue is empty.

    Puts (claimed ids, seconds of each claim, error or None) into `results`.
    """
    claimed: list[str] = []
    seconds: list[float] = []
    error = None
    try:
        with Database.open(url) as database:
            together.wait(PATIENCE)
            while True:
                start = time.perf_counter()
                job_id = CLAIMS[claim](database, worker, together)
                seconds.append(time.perf_counter() - start)
                if job_id is None:
                    break
                claimed.append(job_id)
    except Exception as caught:
        error = repr(caught)
        together.abort()
    results.put((claimed, seconds, error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--claim", choices=CLAIMS, default="jobs")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1000)
    options = parser.parse_args()
    with Database.open(options.url) as database:
        for _ in range(options.jobs):
            Jobs(database).submit(SPEC, datetime.now(UTC))
    spawn = multiprocessing.get_context("spawn")
    together, results = spawn.Barrier(options.processes), spawn.Queue()
    workers = [
        spawn.Process(target=race, args=(options.url, options.claim, f"w{number}", together, results))
        for number in range(options.processes)
    ]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=PATIENCE * 10) for _ in workers]
    for worker in workers:
        worker.join()
    claimed = [job_id for answer in answers for job_id in answer[0]]
    seconds = sorted(second for answer in answers for second in answer[1])
    print(
        json.dumps(
            {
                "claimed": len(claimed),
                "doubles": len(claimed) - len(set(claimed)),
                "shares": [len(answer[0]) for answer in answers],
                "errors": [answer[2] for answer in answers if answer[2]],
                "p99_ms": 1000 * seconds[int(0.99 * (len(seconds) - 1))],
            }
        )
    )


if __name__ == "__main__":
    main()
