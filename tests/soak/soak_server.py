"""Checks of the page under load.

Many visitors, large bodies, endless submits, a database of several years.
"""

import contextlib
import http.client
import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
from gradio_client import Client
from promise import Outcome, percentile, wait_until
from sqlalchemy import insert
from visitors import visitors

from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.clock import now
from app.services import Services, open_services
from app.settings import Settings
from app.web.limits import MAX_QUEUED_JOBS
from storage.database import Database
from storage.jobs import Jobs
from storage.schema import EvaluationRow, JobRow, LossRow, RunRow

ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1 << 20
JOB = CalibrationSpec("builtin", Precision.parse("W4A4"), "rtn", segments=2, seq_len=32).to_dict()
SUBMIT = ["builtin", "W4A4", "rtn", "builtin", 2, 32, -1, 0]
VISITORS = 4  # who submit at the same time
SUBMIT_LONG = ["builtin", "W4A4", "abq", "builtin", 2, 32, 1000, 0]  # each learns for longer than any check


@dataclass(frozen=True)
class Served:
    """A running `abq app` process."""

    port: int
    process: psutil.Process

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resident(self) -> int:
        """Resident bytes of the page's process, without its workers."""
        return int(self.process.memory_info().rss)

    def computed(self) -> float:
        """CPU seconds of the page's process, without its workers."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def serving(data: Path) -> Iterator[Served]:
    """Serve the page on this data folder while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "app", "--port", str(port)]
    environment = {**os.environ, "ABQ_DATA_DIR": str(data), "ABQ_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    served = Served(port, psutil.Process(process.pid))
    try:
        wait_until(lambda: _answers(served.address), "the page answers")
        Client(served.address, verbose=False).predict("builtin", "W4A4", api_name="/explore")  # the model is loaded
        yield served
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def check_bounded(work: Path, short: bool) -> Outcome:
    """Large bodies, a compressed archive, and submits until the queue is full: all refused in bounded memory."""
    submits, waiting = (40, MAX_QUEUED_JOBS - 20) if short else (10_000, 0)
    settings = Settings.from_environment({"ABQ_DATA_DIR": str(work)})
    settings.prepare()
    with Database.open(settings.database_url) as database:
        for _ in range(waiting):
            Jobs(database).submit(JOB, now())
    with serving(work) as served:
        before = served.resident()
        refused = [_send(served, chunked) for chunked in (False, True) for _ in range(2 if short else 10)]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(900 * MEBIBYTE))
        upload = httpx.post(f"{served.address}/gradio_api/upload", files={"files": packed.getvalue()}, timeout=60)
        with httpx.Client(base_url=served.address, timeout=120) as client, ThreadPoolExecutor(VISITORS) as visitors:
            accepted = sum(visitors.map(lambda _: _submit(client), range(submits)))
        grown = (served.resident() - before) / MEBIBYTE
    held = all(refused) and upload.status_code == 404 and accepted < submits and grown < 200
    return Outcome(
        f"{len(refused)} request bodies of 50 MB: {sum(refused)} refused; upload of 900 MB: {upload.status_code}; "
        f"{submits:,} submits with {waiting:,} waiting jobs: {accepted:,} queued; memory grew by {grown:.0f} MiB",
        held,
    )


def _submit(client: httpx.Client) -> bool:
    """Submit a job. Returns whether it was queued."""
    started = client.post("/gradio_api/call/submit", json={"data": SUBMIT}).json()
    return "queued" in client.get(f"/gradio_api/call/submit/{started['event_id']}").text


def _send(served: Served, chunked: bool) -> bool:
    """Send 50 MB. Returns whether they were refused."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(50 * MEBIBYTE)})
    with contextlib.closing(connection):
        try:
            body = (bytes(65536) for _ in range(50 * MEBIBYTE // 65536))
            connection.request("POST", "/gradio_api/call/models", body, headers, encode_chunked=chunked)
        except (BrokenPipeError, ConnectionResetError):  # the server hung up before the end
            return True
        return connection.getresponse().status == 413


def check_visitors(work: Path, short: bool) -> Outcome:
    """50 clients read jobs and runs once a second while 8 jobs run: the page's worker and seven others."""
    clients, running, seconds = (10, 2, 20.0) if short else (50, 8, 300.0)
    with serving(work) as served, contextlib.ExitStack() as stack:
        first = Client(served.address, verbose=False, httpx_kwargs={"timeout": 60})
        for _ in range(running):
            first.predict(*SUBMIT_LONG, api_name="/submit")
        stack.enter_context(_workers(work, running - 1))
        wait_until(lambda: count_jobs(first)["running"] == running, f"{running} jobs are running")
        look = stack.enter_context(visitors(served.address, clients))
        before, computed = served.resident(), served.computed()
        seen = look(seconds)
        grown, computed = (served.resident() - before) / MEBIBYTE, served.computed() - computed
        jobs = count_jobs(first)
    slow = percentile(seen.waits, 0.95)
    first_error = f" ({seen.errors[0][:80]})" if seen.errors else ""
    return Outcome(
        f"{clients} clients for {seconds:.0f} s with {jobs['running']} running jobs: {len(seen.waits):,} responses, "
        f"{len(seen.errors)} errors{first_error}, p50 {percentile(seen.waits, 0.5):.2f} s, p95 {slow:.2f} s, "
        f"{1000 * computed / len(seen.waits):.1f} ms CPU time per response, memory grew by {grown:.0f} MiB",
        not seen.errors and slow <= 2 and grown < 200 and jobs["running"] == running,
    )


@contextlib.contextmanager
def _workers(data: Path, count: int) -> Iterator[None]:
    """Run additional workers while the block runs.

    Each claims a job; they are started as a supervisor does.
    """
    command = [sys.executable, "-m", "app.jobs.worker", "--name"]
    environment = {**os.environ, "ABQ_DATA_DIR": str(data), "ABQ_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, f"soak-{n}"], cwd=ROOT, env=environment, start_new_session=True)
        for n in range(count)
    ]
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


def count_jobs(client: Client) -> Counter[str]:
    """Number of jobs in each state."""
    return Counter(row["state"] for row in client.predict(api_name="/jobs"))


def fill(work: Path, jobs: int, losses: int) -> Services:
    """Services on a database with this many finished jobs and rows of losses."""
    settings = Settings.from_environment({"ABQ_DATA_DIR": str(work), "ABQ_THREADS": "1"})
    settings.prepare()
    start = now() - timedelta(days=400)
    with Database.open(settings.database_url) as database:
        for first in range(0, jobs, 1000):
            numbers = range(first, min(first + 1000, jobs))
            at = {n: start + timedelta(minutes=n) for n in numbers}
            spec = {"model": "builtin", "precision": "W4A4", "method": "abq"}
            runs = [{"id": f"r-{n:010x}", **spec, "spec": spec, "created_at": at[n], "note": ""} for n in numbers]
            rows = [
                {"id": f"j-{n:010x}", "run_id": f"r-{n:010x}", "kind": "calibrate", "spec": spec, "state": "succeeded",
                 "created_at": at[n], "started_at": at[n], "finished_at": at[n], "progress": 1.0, "message": ""}
                for n in numbers
            ]  # fmt: skip
            values = {"precision": "W4A4", "perplexity": 20.0, "kl_mean": 0.1, "weight_bytes": 1e6}
            scored = [
                {"run_id": f"r-{n:010x}", "model": "builtin", "created_at": at[n], "values": values} for n in numbers
            ]
            with database.transaction() as session:
                session.execute(insert(RunRow), runs)
                session.execute(insert(JobRow), rows)
                session.execute(insert(EvaluationRow), scored)
            steps = [
                {"job_id": f"j-{n:010x}", "block": step // 20, "step": step % 20, "terms": {"dlc": 0.1, "akl": 0.2},
                 "recorded_at": at[n]} for n in numbers for step in range(losses // jobs)
            ]  # fmt: skip
            with database.transaction() as session:
                session.execute(insert(LossRow), steps)
    return open_services(settings)


def check_large_database(work: Path, short: bool) -> Outcome:
    """Time what each tab requests from the services when it opens."""
    jobs, losses = (2_000, 20_000) if short else (10_000, 1_000_000)
    services = fill(work, jobs, losses)
    newest = f"j-{jobs - 1:010x}"
    tabs = {
        "header": [services.models.names, services.runs.newest_frame],
        "calibrate": [services.jobs.frame, lambda: services.jobs.losses(newest), lambda: services.jobs.log(newest)],
        "distributions": [services.runs.newest_frame],
        "generate": [services.runs.newest_frame],
        "throughput": [services.runs.newest_frame, services.timings.frame],
        "compare": [services.runs.newest_frame, services.timings.frame, services.tasks.frame],
    }
    taken = {}
    for tab, questions in tabs.items():
        started = time.perf_counter()
        for question in questions:
            question()
        taken[tab] = time.perf_counter() - started
    slowest = max(taken, key=lambda tab: taken[tab])
    return Outcome(
        f"{jobs:,} jobs, {losses:,} losses: the slowest is {slowest} with {taken[slowest]:.2f} s in the services",
        taken[slowest] < 2,
    )
