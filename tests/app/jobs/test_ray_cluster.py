"""A real Ray cluster of two nodes on this machine; one is killed in the middle of a sweep."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from app_cases import settings_in, work_on

from app.jobs.executors.local import PROJECT_ROOT
from app.runs.run_check import verify
from app.services import Services, open_services
from storage.jobs import Job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not (Path(sys.executable).parent / "ray").exists(), reason="ray is not installed: pip install '.[ray]'"
    ),
]

PATIENCE_SECONDS = 800.0  # only a hang takes this long; two busy cores need half
GRID = """
models: [builtin]
precisions: [W4A4, "W2*A8", W3A8]
methods: [abq]
segments: 4
seq_len: 32
epochs: 4
"""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Nodes:
    """Two nodes with one CPU each; this machine's processes belong to the head node."""

    address: str
    head: psutil.Popen
    second: psutil.Popen


def kill(node: psutil.Popen) -> None:
    """Kill every process of the node, as if its machine lost power."""
    for process in [node, *node.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    address = f"127.0.0.1:{free_port()}"
    started: list[psutil.Popen] = []
    with open(tmp_path_factory.mktemp("ray") / "nodes.log", "wb") as log:

        def start(*options: str) -> psutil.Popen:
            command = [str(Path(sys.executable).parent / "ray"), "start", "--num-cpus=1", "--block", *options]
            command += ["--object-store-memory=100000000", "--disable-usage-stats"]
            started.append(psutil.Popen(command, stdout=log, stderr=log, start_new_session=True))
            return started[-1]

        # not pytest's folder: the path of a socket is limited to 107 characters
        folder = f"/tmp/abq-ray-{os.getpid()}"
        head = start("--head", f"--port={address.split(':')[1]}", f"--temp-dir={folder}", "--include-dashboard=false")
        try:
            wait_until(lambda: alive(address) == 1, "the head is there")
            second = start(f"--address={address}")
            wait_until(lambda: alive(address) == 2, "the second node is there")
            yield Nodes(address, head, second)
        finally:
            for node in started:
                if node.poll() is None:
                    kill(node)
                node.wait()
            subprocess.run(["rm", "-rf", folder], check=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def alive(address: str) -> int:
    """Number of live nodes.

    Asked in a separate process, because Ray leaves threads and signal handlers behind.
    """
    code = f"import ray; ray.init({address!r}, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return int(found.stdout) if found.returncode == 0 else 0


def start_sweep(folder: Path, address: str, change: str = "") -> "subprocess.Popen[str]":
    """change: Python code that the submitting process runs before the command."""
    (folder / "grid.yaml").write_text(GRID)
    words = ["sweep", str(folder / "grid.yaml"), "--executor", "ray", "--ray-address", address, "--json"]
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; from app.cli.main import main\n{change}\nsys.exit(main(sys.argv[1:]))",
            *words,
        ],
        cwd=PROJECT_ROOT,
        env={**os.environ, "ABQ_DATA_DIR": str(folder / "data"), "ABQ_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calibrating_on(services: Services, node: psutil.Process) -> list[Job]:
    """The running jobs whose logs name a process of this node."""
    children = {process.pid for process in node.children(recursive=True)}
    found = []
    for job in services.storage.jobs.list("running"):
        lines = [line.text for line in services.storage.jobs.logs(job.id) if line.text.startswith("Calibrating on")]
        if lines and int(lines[-1].rstrip(".").split()[-1]) in children:
            found.append(job)
    return found


def hashes(services: Services, run_id: str) -> dict[int, str]:
    return {block.block: block.sha256 for block in services.storage.runs.blocks(run_id)}


def test_a_node_killed_in_a_sweep_loses_no_block_and_repeats_none(nodes: Nodes, tmp_path: Path) -> None:
    services = open_services(settings_in(tmp_path / "data"))
    sweep = start_sweep(tmp_path, nodes.address)
    victims: list[Job] = []

    def in_the_middle() -> bool:
        assert sweep.poll() is None, sweep.communicate()[1]
        victims[:] = [job for job in calibrating_on(services, nodes.second) if 1 <= job.blocks_done <= 3]
        return bool(victims)

    wait_until(in_the_middle, "the second node is in the middle of a job")
    kill(nodes.second)
    before = {record.block: record for record in services.storage.runs.blocks(victims[0].run_id)}
    _, err = sweep.communicate(timeout=PATIENCE_SECONDS)
    assert sweep.returncode == 0, err

    jobs = [services.jobs.get(job.id) for job in services.storage.jobs.list()]
    assert len(jobs) == 3 and {job.state for job in jobs} == {"succeeded"}
    assert "is gone" in services.jobs.log(victims[0].id) and services.jobs.get(victims[0].id).epoch == 2
    after = {record.block: record for record in services.storage.runs.blocks(victims[0].run_id)}
    assert before and {block: after[block] for block in before} == before, "a finished block was redone"
    local = open_services(settings_in(tmp_path / "local"))
    for job in jobs:
        assert job.blocks_done == job.blocks_total == len(hashes(services, job.run_id))
        lines = [line.text for line in services.storage.jobs.logs(job.id) if " done in " in line.text]
        assert len(lines) == job.blocks_total, f"a block was computed twice: {lines}"
        assert verify(services.storage.runs, services.settings.runs_dir, services.runs.get(job.run_id)) == []
        reference = work_on(local, local.storage.jobs.submit(job.spec, job.created_at))
        assert hashes(services, job.run_id) == hashes(local, reference.run_id)
    connection = sqlite3.connect(tmp_path / "data" / "abq.sqlite3")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_actors_end_with_the_submitting_process_and_the_next_sweep_takes_its_jobs(nodes: Nodes, tmp_path: Path) -> None:
    services = open_services(settings_in(tmp_path / "data"))
    sweep = start_sweep(tmp_path, nodes.address)

    def working() -> list[Job]:
        assert sweep.poll() is None, sweep.communicate()[1]
        return [job for node in (nodes.head, nodes.second) for job in calibrating_on(services, node)]

    wait_until(lambda: any(job.blocks_done for job in working()), "a job has a block")
    (first, *_) = (job for job in working() if job.blocks_done)
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    wait_until(lambda: not calibrators(nodes), "no actor is left")
    kept = hashes(services, first.run_id)
    again = start_sweep(tmp_path, nodes.address)
    _, err = again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0, err
    jobs = services.storage.jobs.list()
    assert len(jobs) == 3 and {job.state for job in jobs} == {"succeeded"}
    assert services.jobs.get(first.id).epoch == 2 and kept.items() <= hashes(services, first.run_id).items()


def test_nodes_of_another_version_are_refused_before_anything_is_queued(nodes: Nodes, tmp_path: Path) -> None:
    change = (
        "import app.jobs.executors.ray as ray; same = ray.versions(); ray.versions = lambda: {**same, 'torch': '1.0'}"
    )
    out, err = start_sweep(tmp_path, nodes.address, change).communicate(timeout=PATIENCE_SECONDS)
    assert not out and "and the submitting process has 1.0: install the same versions" in err, err
    assert not open_services(settings_in(tmp_path / "data")).storage.jobs.list()


def calibrators(nodes: Nodes) -> list[psutil.Process]:
    found = []
    for node in (nodes.head, nodes.second):
        for process in node.children(recursive=True):
            try:
                if "RayCalibrator" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
    return found
