"""Many jobs on a cluster: this process claims them and holds their leases, nodes calibrate, this process alone writes.

What a node hands over is written here under the job's epoch, as a worker writes it. A node that dies ends an attempt,
as a worker that dies: its job goes back to the queue and is claimed again; after three attempts without a new block it
has failed. Diagnostics and evaluation are made in this process, of one job at a time.
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, Protocol

from abq_core.events import Message, OnEvent
from abq_core.models.reference import fingerprint
from abq_core.spec import CalibrationSpec
from app.clock import now
from app.jobs.calibration_job import Calibrator, EvaluationPlan, run_claimed
from app.jobs.executors.node import Assignment, BlockKey, on_one_device
from app.jobs.executors.remote import Remote, RemoteLostError, follow_remote, stored_blocks
from app.jobs.lease import LOOK_SECONDS, JobLease, JobStopped
from app.runs.provenance import versions
from app.runs.run_folder import BlockStore
from app.services import Services
from storage.jobs import Job

MOST_AT_ONCE = 32  # each is two threads here, and their writes take turns
_ALL = 1_000_000


class ClusterError(RuntimeError):
    """A cluster that cannot be used for what was asked; the message says why and what to do."""


@dataclass(frozen=True)
class Need:
    """What one calibration takes of a node: CPUs, whole GPUs, bytes of memory."""

    cpus: int
    gpus: int
    memory_bytes: int


class Cluster(Protocol):
    """Where calibrations can run. cpus: that one of them takes, as threads of torch."""

    cpus: int

    def room(self, need: Need) -> int:
        """How many of these the nodes that live now hold at once."""
        ...

    def start(self, need: Need, assignment: Assignment, stored: Iterable[tuple[BlockKey, bytes]]) -> Remote:
        """Have a node calibrate, as soon as one has room. stored: what it fetches of the finished blocks."""
        ...


class ClusterJobs:
    """Brings jobs to their end on a cluster. One thread calls `bring_to_end`; `stop` may be called from any.

    on_look: shown, about twice a second, those that have not ended.  plan: how much their evaluations read.
    """

    def __init__(
        self,
        services: Services,
        cluster: Cluster,
        on_look: Callable[[Sequence[Job]], None] = lambda jobs: None,
        plan: EvaluationPlan | None = None,
    ) -> None:
        self._services = services
        self._jobs = services.storage.jobs
        self._cluster = cluster
        self._on_look = on_look
        self._plan = plan
        self._needs: dict[str, Need] = {}
        self._leases: set[JobLease] = set()
        self._calibrating: set[str] = set()  # jobs that take room on the cluster, or are about to
        self._measuring = threading.Lock()
        self._stopped: Literal["cancelled", "shutdown"] | None = None

    def bring_to_end(self, job_ids: Sequence[str]) -> None:
        """Return when all of these jobs have ended, here or in the hands of other workers, or `stop` was called.

        Ctrl-C cancels those that have not ended. Raises DatabaseError.
        """
        with ThreadPoolExecutor(MOST_AT_ONCE, "cluster-job") as pool:
            try:
                self._look_until_ended(set(job_ids), pool)
            except KeyboardInterrupt:
                for job_id in job_ids:
                    self._jobs.request_cancel(job_id, now())
                self.stop("cancelled")
                raise
            except BaseException:
                self.stop("shutdown")
                raise

    def stop(self, reason: Literal["cancelled", "shutdown"]) -> None:
        """End all jobs at their next step: cancelled, or back in the queue."""
        self._stopped = reason
        for lease in list(self._leases):
            lease.stop(reason)

    def _look_until_ended(self, job_ids: set[str], pool: ThreadPoolExecutor) -> None:
        at_work: dict[str, Future[None]] = {}
        while self._stopped is None:
            for job_id in [job_id for job_id, future in at_work.items() if future.done()]:
                at_work.pop(job_id).result()
            self._jobs.requeue_expired(now())  # of a worker or a submitting process that died
            queued = [job for job in reversed(self._jobs.list("queued", _ALL)) if job.id in job_ids]
            running = [job for job in self._jobs.list("running", _ALL) if job.id in job_ids]
            if not (queued or running or at_work):
                return
            self._on_look([*running, *queued])
            for job in queued:
                if job.id in at_work:
                    continue
                if len(at_work) >= MOST_AT_ONCE or len(self._calibrating) >= self._cluster.room(self._need(job)):
                    break
                self._calibrating.add(job.id)
                at_work[job.id] = pool.submit(self._work_on, job.id)
            if at_work:
                wait(at_work.values(), LOOK_SECONDS, FIRST_COMPLETED)
            else:
                threading.Event().wait(LOOK_SECONDS)

    def _need(self, job: Job) -> Need:
        if job.id not in self._needs:
            spec = CalibrationSpec.from_dict(job.spec)
            self._needs[job.id] = need_of(
                spec, self._services.models.estimate_calibration(spec).peak_memory_bytes, self._cluster.cpus
            )
        return self._needs[job.id]

    def _work_on(self, job_id: str) -> None:
        """What a worker process does, and what its supervisor does after its end."""
        worker = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        try:
            job = self._jobs.claim_next(worker, now(), job_id=job_id)
            if job is None:
                return
            lease = JobLease(self._jobs, job)
            with self._held(lease), lease, contextlib.ExitStack() as turn:
                run_claimed(self._services, lease, self._plan, calibrator=self._calibrator(lease, turn))
            self._jobs.requeue_worker(worker, now())  # nothing, unless its node died
        finally:
            self._calibrating.discard(job_id)

    @contextlib.contextmanager
    def _held(self, lease: JobLease) -> Iterator[None]:
        self._leases.add(lease)
        if self._stopped is not None:  # said between the claim and the line above
            lease.stop(self._stopped)
        try:
            yield
        finally:
            self._leases.discard(lease)

    def _calibrator(self, lease: JobLease, turn: contextlib.ExitStack) -> Calibrator:
        """Calibrates on the cluster, then waits for its turn to measure here, which ends with `turn`."""

        def calibrate(spec: CalibrationSpec, store: BlockStore, on_event: OnEvent) -> None:
            on_event(Message("It waits for room on the cluster."))
            try:
                self._calibrate(lease, spec, store, on_event)
            except RemoteLostError as error:
                on_event(Message(str(error)))
                raise JobStopped("lost") from error
            finally:
                self._calibrating.discard(lease.job.id)
            while not self._measuring.acquire(timeout=LOOK_SECONDS):
                lease.check()
            turn.callback(self._measuring.release)

        return calibrate

    def _calibrate(self, lease: JobLease, spec: CalibrationSpec, store: BlockStore, on_event: OnEvent) -> None:
        need, on_node = self._need(lease.job), on_one_device(spec)
        home = "cpu" if self._services.settings.device == "cpu" else on_node.device
        assignment = Assignment(on_node, home, fingerprint(spec.model), versions(), need.cpus)
        remote = self._cluster.start(need, assignment, stored_blocks(store))
        try:
            follow_remote(remote, store, on_event, lease.check)
        finally:
            remote.stop()


def need_of(spec: CalibrationSpec, memory_bytes: int, cpus: int) -> Need:
    """What a calibration takes that needs so much memory, on so many threads."""
    return Need(cpus, int(spec.device.startswith("cuda")), memory_bytes)
