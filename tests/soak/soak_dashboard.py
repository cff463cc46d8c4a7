"""The check of the dashboard: killed with its supervisor at random moments of a job, and started again."""

import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
from promise import Outcome, wait_until
from soak_workers import Site

from app.executors.local import PROJECT_ROOT


def check_dashboard(work: Path, short: bool) -> Outcome:
    from gradio_client import Client

    kills, site, chance = (1 if short else 20), Site(work), random.Random(0)
    job = site.submit(epochs=1000)
    slowest, lost, behind = 0.0, 0, 0
    for _ in range(kills):
        page, _ = start_page(site)
        wait_until(lambda: site.jobs.get(job.id).state == "running", "the job runs again")
        time.sleep(chance.uniform(0, 5))
        workers = workers_of(page.pid)
        page.kill()
        page.wait()
        slowest = max(
            slowest, wait_until(lambda workers=workers: not any(map(psutil.pid_exists, workers)), "no orphan")
        )
        lost += site.jobs.get(job.id).state not in ("queued", "running")
    page, address = start_page(site)
    shown = Client(address, verbose=False).predict(api_name="/jobs")
    behind += [row["job"] for row in shown] != [job.id]
    wait_until(lambda: site.jobs.get(job.id).state == "running", "the job runs again")
    site.explorer.cancel(job.id)
    wait_until(lambda: site.jobs.get(job.id).state == "cancelled", "the new page's supervisor obeys")
    page.terminate()
    page.wait()
    return Outcome(
        f"{kills} kills: no worker left after {slowest:.1f} s, {lost} jobs lost, the page shows and runs the job again",
        slowest <= 10 and lost == 0 and behind == 0,
    )


def start_page(site: Site) -> tuple["subprocess.Popen[bytes]", str]:
    """`abq app` on a free port, when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "app", "--port", str(port)],
        env={**os.environ, **site.settings.to_environment()},
        cwd=PROJECT_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/"
    wait_until(lambda: answers(address), "the page answers")
    return process, address


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def workers_of(page: int) -> list[int]:
    """The worker processes that a page started."""
    parent = ["--parent", str(page)]
    lines = [(process.pid, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [pid for pid, line in lines if any(line[i : i + 2] == parent for i in range(len(line)))]
