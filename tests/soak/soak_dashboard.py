"""The check of the dashboard.

It is killed with its supervisor at random moments of a job, and restarted.
"""

import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from promise import Outcome, wait_until
from soak_workers import Site

from app.jobs.executors.local import PROJECT_ROOT


def check_dashboard(work: Path, short: bool) -> Outcome:
    """Kill pages of two data folders in parallel: most of the time a page or a worker is starting."""
    homes, kills = (1, 1) if short else (2, 10)
    sites = [Site(work / str(number)) for number in range(homes)]
    with ThreadPoolExecutor(homes) as pool:
        ends = list(pool.map(lambda number: kill_pages(sites[number], kills, random.Random(number)), range(homes)))
    slowest, lost, behind = max(end.slowest for end in ends), sum(end.lost for end in ends), any(e.behind for e in ends)
    return Outcome(
        f"{homes * kills} kills: no worker left after {slowest:.1f} s, {lost} jobs lost; the next dashboard "
        f"{'does not show' if behind else 'shows and runs'} the job",
        slowest <= 10 and lost == 0 and not behind,
    )


@dataclass(frozen=True)
class Ends:
    """slowest: seconds until no worker was left.  lost: jobs lost.

    behind: the last page did not show the job.
    """

    slowest: float
    lost: int
    behind: bool


def kill_pages(site: Site, kills: int, chance: random.Random) -> Ends:
    """Kill this many pages during one job, then check that a new page continues it."""
    from gradio_client import Client

    job = site.submit(epochs=1000)
    slowest, lost = 0.0, 0
    for _ in range(kills):
        page, _ = start_page(site)
        wait_until(lambda: site.jobs.get(job.id).state == "running", "the job runs again")
        time.sleep(chance.uniform(0, 5))
        workers = workers_of(page.pid)
        page.kill()
        page.wait()
        gone = wait_until(lambda workers=workers: not any(map(psutil.pid_exists, workers)), "no orphan")
        slowest = max(slowest, gone)
        lost += site.jobs.get(job.id).state not in ("queued", "running")
    page, address = start_page(site)
    shown = Client(address, verbose=False).predict(api_name="/jobs")
    wait_until(lambda: site.jobs.get(job.id).state == "running", "the job runs again")
    site.services.jobs.cancel(job.id)
    wait_until(lambda: site.jobs.get(job.id).state == "cancelled", "the new page's supervisor obeys")
    page.terminate()
    page.wait()
    return Ends(slowest, lost, [row["job"] for row in shown] != [job.id])


def start_page(site: Site) -> tuple["subprocess.Popen[bytes]", str]:
    """Start `abq app` on a free port and wait until it answers."""
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
