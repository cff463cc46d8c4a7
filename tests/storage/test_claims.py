"""Real processes never claim a job twice.

A naive claim does, which shows that the race detects double claims.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from storage.database import Database
from storage.jobs import Jobs

RACE = Path(__file__).parents[1] / "cases" / "claim_race.py"
ROOT = Path(__file__).parents[2]


def race(url: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(RACE), url, *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_four_processes_claim_each_job_once(url: str) -> None:
    result = race(url, "--claim", "jobs", "--processes", "4", "--jobs", "100")
    assert result["errors"] == []
    assert (result["claimed"], result["doubles"]) == (100, 0)
    with Database.open(url) as database:
        jobs = Jobs(database)
        assert jobs.counts() == {"running": 100}
        assert {job.epoch for job in jobs.list()} == {1}


def test_the_race_detects_double_claims_of_a_naive_claim(url: str) -> None:
    result = race(url, "--claim", "naive", "--processes", "2", "--jobs", "5")
    assert result["errors"] == []
    assert result["doubles"] > 0
