"""Jobs on this machine: a supervisor runs one worker process at a time.

It runs in a thread of the dashboard or as its own process (`abq worker`). At most one supervisor is active per data
folder; others wait until it ends.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil

from app.clock import now
from app.jobs.executors.single_instance import SingleInstance
from app.secrets import without_secrets
from app.settings import Settings
from kernels.host.threads import THREADS_WAIT
from storage.errors import StorageError
from storage.jobs import LEASE, Job, Jobs

POLL_SECONDS = 0.5
TERM_AFTER_SECONDS = 10.0  # of a cancelled job that does not stop
KILL_AFTER_SECONDS = 14.5  # the process is gone 16 s after the cancel, polling included
STOP_SECONDS = 10.0
LOG_BYTES = 2**20
PROJECT_ROOT = Path(__file__).resolve().parents[3]

logger = logging.getLogger(__name__)


class Supervisor:
    """The supervisor of worker processes.

    Starts a worker for each queued job, ends workers that ignore a cancel, requeues the jobs of dead workers.
    """

    def __init__(self, settings: Settings, jobs: Jobs, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._jobs = jobs
        self._clock = clock
        self._instance = SingleInstance(settings.data_dir / "supervisor.lock")
        self._worker: subprocess.Popen[bytes] | None = None
        self._name = ""
        self._cancel_seen: float | None = None
        self._stopped_since: float | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Supervise from a thread until `stop`."""
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the worker, whose job is queued again, and the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.end_worker()
        self._instance.release()

    def run_until_idle(self) -> bool:
        """Supervise in this thread until no job is queued or running.

        False if another supervisor is active.
        """
        if not self._instance.acquire():
            return False
        try:
            while not self._stop.is_set():
                self.step()
                if self._worker is None and not self._jobs.list("queued", 1):
                    # After the release a new job starts its own supervisor; one submitted just before did not.
                    self._instance.release()
                    if not self._jobs.list("queued", 1) or not self._instance.acquire():
                        return True
                self._stop.wait(POLL_SECONDS)
        finally:
            self.end_worker()
            self._instance.release()
        return True

    def step(self) -> None:
        """Check once: the worker, expired leases, cancels that were ignored, the queue."""
        self._kill_stopped_worker()
        self._collect_worker()
        self._jobs.requeue_expired(now())
        if self._worker is None:
            if self._jobs.list("queued", 1):
                self._start_worker()
        else:
            self._watch_cancel()

    def end_worker(self) -> None:
        """Send SIGTERM, then SIGKILL after STOP_SECONDS; the worker's job is queued again."""
        if self._worker is None:
            return
        self._worker.terminate()
        try:
            self._worker.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._collect_worker()

    def _supervise(self) -> None:
        while not self._stop.is_set():
            try:
                if self._instance.acquire():
                    self.step()
            except (StorageError, OSError):
                logger.exception("The supervisor continues after an error.")
            self._stop.wait(POLL_SECONDS)

    def _start_worker(self) -> None:
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        with open_log(self._settings.logs_dir / "worker.log") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "app.jobs.worker", "--name", self._name, "--parent", str(os.getpid())],
                env=without_secrets(_environment(self._settings)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the supervisor only, which then ends the worker
            )
        self._cancel_seen = None

    def _collect_worker(self) -> None:
        if self._worker is None or self._worker.poll() is None:
            return
        code = self._worker.returncode
        if code:
            logger.warning("Worker %s ended with %s; see %s.", self._name, code, self._settings.logs_dir / "worker.log")
        self._worker = None
        self._jobs.requeue_worker(self._name, now())

    def _kill_stopped_worker(self) -> None:
        """Kill a worker that has been stopped (SIGSTOP) for longer than its lease.

        Another worker may own its job by now, and it may hold the database's lock, so this asks the operating system
        and not the database.
        """
        if self._worker is None or not _is_stopped(self._worker.pid):
            self._stopped_since = None
            return
        if self._stopped_since is None:
            self._stopped_since = self._clock()
        elif self._clock() - self._stopped_since > LEASE.total_seconds():
            self._worker.kill()
            self._worker.wait()

    def _watch_cancel(self) -> None:
        job = self._running_job()
        if job is None or not job.cancel_requested or self._worker is None:
            self._cancel_seen = None
            return
        if self._cancel_seen is None:
            self._cancel_seen = self._clock()
        waited = self._clock() - self._cancel_seen
        if waited >= KILL_AFTER_SECONDS:
            self._worker.kill()
        elif waited >= TERM_AFTER_SECONDS:
            self._worker.send_signal(signal.SIGTERM)

    def _running_job(self) -> Job | None:
        return next((job for job in self._jobs.list("running") if job.worker == self._name), None)


def _is_stopped(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def start_detached(settings: Settings) -> bool:
    """Start a supervisor that outlives this process and ends with the queue.

    False if one is active already.
    """
    instance = SingleInstance(settings.data_dir / "supervisor.lock")
    if not instance.acquire():
        return False
    instance.release()
    with open_log(settings.logs_dir / "supervisor.log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "worker"],
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.returncode = 0  # never waited for: Popen would warn about a running child
    return True


def _environment(settings: Settings) -> dict[str, str]:
    """The environment of a child process: settings, import path and thread waiting."""
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**THREADS_WAIT, **os.environ, **settings.to_environment(), "PYTHONPATH": path}


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[IO[bytes]]:
    """A log file opened for appending; one longer than LOG_BYTES is truncated first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "wb" if path.exists() and path.stat().st_size > LOG_BYTES else "ab"
    with path.open(mode) as file:
        yield file
