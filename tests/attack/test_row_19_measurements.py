"""Row 19: evaluations of another text replace nothing, Ctrl-C exits with 130, limits hold, temporary folders go."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attack_cases import ROOT, Commands, FinishedRun, environment

pytestmark = pytest.mark.attack(row=19)


def test_an_evaluation_on_another_text_keeps_the_full_precision_row(
    abq_many: Commands, finished_run: FinishedRun, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("something else entirely, 12345 67890. " * 2000, "utf-8")
    model, text = str(finished_run.model), str(finished_run.text)
    before, *evaluated, after = abq_many(
        ["runs", "list", "--json"],
        ["eval", model, "--data", str(other), "--segments", "4", "--seq-len", "32"],
        ["eval", model, "--data", text, "--segments", "2", "--seq-len", "16"],
        ["runs", "list", "--json"],
    )
    assert [done.returncode for done in evaluated] == [0, 0]
    assert json.loads(after.stdout) == json.loads(before.stdout)


def test_ctrl_c_exits_with_130(finished_run: FinishedRun) -> None:
    words = ["calibrate", "builtin", "--precision", "W4A4", "--epochs", "1000", "--wait"]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT, env=environment(finished_run.data), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # progress: the job runs
        if "%" in line:
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in rest and "jobs resume" in rest


def test_the_queue_never_exceeds_its_limit(tmp_path: Path) -> None:
    from storage.database import Database
    from storage.errors import QueueFullError
    from storage.jobs import Jobs

    limit, spec = 20, {"model": "m", "precision": "W4A4", "method": "rtn"}
    refused = []

    def submit() -> None:
        with Database.open(tmp_path / "abq.db") as database:
            for _ in range(10):
                try:
                    Jobs(database).submit(spec, datetime.now(UTC), max_queued=limit)
                except QueueFullError:
                    refused.append(1)

    Database.open(tmp_path / "abq.db").close()
    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Database.open(tmp_path / "abq.db") as database:
        assert Jobs(database).counts() == {"queued": limit} and len(refused) == 4 * 10 - limit


def test_folders_of_killed_processes_are_removed_at_the_next_start(abq_many: Commands, tmp_path: Path) -> None:
    import fcntl

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    abandoned, live, young = (temporary / f"abq-model-{name}" for name in ("abandoned", "live", "young"))
    for folder in (abandoned, live, young):
        folder.mkdir()
        (folder / "config.json").symlink_to("/dev/null")
    hour_ago = time.time() - 3600
    for folder in (abandoned, live):
        os.utime(folder, (hour_ago, hour_ago))
    link = temporary / "abq-model-link"
    link.symlink_to(tmp_path)
    descriptor = os.open(live, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    code = "from abq_core.models.loading import load_model; load_model('builtin')"
    variables = {**environment(tmp_path / "data"), "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, check=True, timeout=120)
    os.close(descriptor)
    assert not abandoned.exists() and live.exists() and young.exists() and link.is_symlink() and tmp_path.exists()
    assert {path.name for path in temporary.glob("abq-model-*")} == {live.name, young.name, link.name}
