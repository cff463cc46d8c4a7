"""Jobs on this machine: a supervisor that keeps one worker process at work while the queue holds jobs.

It runs in a thread of the dashboard, or by itself (`abq worker`). One supervisor at a time looks after a data folder;
another one waits for its turn.
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

LOOK_SECONDS = 0.5
TERM_AFTER_SECONDS = 10.0  # a cancelled job that does not stop by itself
KILL_AFTER_SECONDS = 14.5  # gone 16 s after the cancel, the looks between included
STOP_SECONDS = 10.0
LOG_BYTES = 2**20
PROJECT_ROOT = Path(__file__).resolve().parents[3]

logger = logging.getLogger(__name__)


class Supervisor:
    """Starts a worker for each queued job, ends workers that hang in a cancel, gives back what a dead one held."""

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
        """End the worker, its job going back to the queue, and the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.end_worker()
        self._instance.release()

    def run_until_idle(self) -> bool:
        """Supervise in this thread until no job is queued or running. False where another supervisor is at work."""
        if not self._instance.acquire():
            return False
        try:
            while not self._stop.is_set():
                self.step()
                if self._worker is None and not self._jobs.list("queued", 1):
                    self._instance.release()  # from here on a new job finds no supervisor and starts one ...
                    if (
                        not self._jobs.list("queued", 1) or not self._instance.acquire()
                    ):  # ... unless it came just before
                        return True
                self._stop.wait(LOOK_SECONDS)
        finally:
            self.end_worker()
            self._instance.release()
        return True

    def step(self) -> None:
        """Look once: at the worker, at leases that ran out, at cancels that hang, at the queue."""
        self._kill_stopped_worker()
        self._collect_worker()
        self._jobs.requeue_expired(now())
        if self._worker is None:
            if self._jobs.list("queued", 1):
                self._start_worker()
        else:
            self._watch_cancel()

    def end_worker(self) -> None:
        """SIGTERM, then SIGKILL where it does not end in time; whatever it held is queued again."""
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
                logger.exception("The supervisor goes on after an error.")
            self._stop.wait(LOOK_SECONDS)

    def _start_worker(self) -> None:
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        with open_log(self._settings.logs_dir / "worker.log") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "app.jobs.worker", "--name", self._name, "--parent", str(os.getpid())],
                env=without_secrets(_environment(self._settings)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends the supervisor, which then ends the worker in good order
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
        """A worker that was stopped (SIGSTOP) for longer than its lease: another may have its job by now, and it may
        hold the database's lock. Asks the system, not the database.
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
    """Start a supervisor that outlives this process and ends when the queue is empty. False where one is at work."""
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
    process.returncode = 0  # nobody waits for it: it outlives this process
    return True


def _environment(settings: Settings) -> dict[str, str]:
    """What a process started here sees: these settings, this code, and threads that wait without spinning."""
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**THREADS_WAIT, **os.environ, **settings.to_environment(), "PYTHONPATH": path}


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[IO[bytes]]:
    """A log file to append to; started anew where it has become long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "wb" if path.exists() and path.stat().st_size > LOG_BYTES else "ab"
    with path.open(mode) as file:
        yield file
