"""Jobs on a cluster: nodes calibrate; this process holds the leases and does all writes.

Blocks and events from a node are written here under the job's epoch, as a local worker writes them. A node that dies
ends an attempt: the job is queued and claimed again, and fails after three attempts without a new block. Diagnostics
and evaluation run in this process, one job at a time.
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
from app.jobs.lease import POLL_SECONDS, JobLease, JobStopped
from app.runs.provenance import versions
from app.runs.run_folder import BlockStore
from app.services import Services
from storage.jobs import Job

MAX_JOBS = 32  # at the same time: each uses two threads, and their writes are serialized
_NO_LIMIT = 1_000_000


class ClusterError(RuntimeError):
    """The cluster cannot run these calibrations; the message says why and what to do."""


@dataclass(frozen=True)
class Resources:
    """Resources that one calibration needs on a node: CPUs, whole GPUs, bytes of memory."""

    cpus: int
    gpus: int
    memory_bytes: int


class Cluster(Protocol):
    """A cluster that runs calibrations. cpus: CPUs per calibration, used as torch threads."""

    cpus: int

    def capacity(self, need: Resources) -> int:
        """Number of such calibrations that the live nodes can run at once."""
        ...

    def start(self, need: Resources, assignment: Assignment, stored: Iterable[tuple[BlockKey, bytes]]) -> Remote:
        """Calibrate on a node as soon as one has free resources.

        stored: the finished blocks, which it may fetch.
        """
        ...


class ClusterJobs:
    """Runs jobs on a cluster.

    One thread calls `bring_to_end`; `stop` may be called from any thread.
    on_poll: called about twice a second with the jobs that have not ended.  plan: text that their evaluations read.
    """

    def __init__(
        self,
        services: Services,
        cluster: Cluster,
        on_poll: Callable[[Sequence[Job]], None] = lambda jobs: None,
        plan: EvaluationPlan | None = None,
    ) -> None:
        self._services = services
        self._jobs = services.storage.jobs
        self._cluster = cluster
        self._on_poll = on_poll
        self._plan = plan
        self._needs: dict[str, Resources] = {}
        self._leases: set[JobLease] = set()
        self._calibrating: set[str] = set()  # jobs that use resources of the cluster, or are about to
        self._measuring = threading.Lock()
        self._stopped: Literal["cancelled", "shutdown"] | None = None

    def bring_to_end(self, job_ids: Sequence[str]) -> None:
        """Run these jobs. Returns when all have ended, or `stop` was called.

        Other workers may run some of them.
        Ctrl-C cancels the jobs that have not ended. Raises DatabaseError.
        """
        with ThreadPoolExecutor(MAX_JOBS, "cluster-job") as pool:
            try:
                self._poll_until_ended(set(job_ids), pool)
            except KeyboardInterrupt:
                for job_id in job_ids:
                    self._jobs.request_cancel(job_id, now())
                self.stop("cancelled")
                raise
            except BaseException:
                self.stop("shutdown")
                raise

    def stop(self, reason: Literal["cancelled", "shutdown"]) -> None:
        """End all jobs at their next step: cancelled, or queued again (shutdown)."""
        self._stopped = reason
        for lease in list(self._leases):
            lease.stop(reason)

    def _poll_until_ended(self, job_ids: set[str], pool: ThreadPoolExecutor) -> None:
        running_here: dict[str, Future[None]] = {}
        while self._stopped is None:
            for job_id in [job_id for job_id, future in running_here.items() if future.done()]:
                running_here.pop(job_id).result()
            self._jobs.requeue_expired(now())  # the worker or submitting process of a job may have died
            queued = [job for job in reversed(self._jobs.list("queued", _NO_LIMIT)) if job.id in job_ids]
            running = [job for job in self._jobs.list("running", _NO_LIMIT) if job.id in job_ids]
            if not (queued or running or running_here):
                return
            self._on_poll([*running, *queued])
            for job in queued:
                if job.id in running_here:
                    continue
                room = self._cluster.capacity(self._resources(job))
                if len(running_here) >= MAX_JOBS or len(self._calibrating) >= room:
                    break
                self._calibrating.add(job.id)
                running_here[job.id] = pool.submit(self._run_job, job.id)
            if running_here:
                wait(running_here.values(), POLL_SECONDS, FIRST_COMPLETED)
            else:
                threading.Event().wait(POLL_SECONDS)

    def _resources(self, job: Job) -> Resources:
        if job.id not in self._needs:
            spec = CalibrationSpec.from_dict(job.spec)
            self._needs[job.id] = resources_for(
                spec, self._services.models.estimate_calibration(spec).peak_memory_bytes, self._cluster.cpus
            )
        return self._needs[job.id]

    def _run_job(self, job_id: str) -> None:
        """Claim and run one job as a worker does; requeue it as a supervisor does.

        A job is requeued if its node died.
        """
        worker = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        try:
            job = self._jobs.claim_next(worker, now(), job_id=job_id)
            if job is None:
                return
            lease = JobLease(self._jobs, job)
            with self._held(lease), lease, contextlib.ExitStack() as turn:
                run_claimed(self._services, lease, self._plan, calibrator=self._calibrator(lease, turn))
            self._jobs.requeue_worker(worker, now())  # no effect unless its node died
        finally:
            self._calibrating.discard(job_id)

    @contextlib.contextmanager
    def _held(self, lease: JobLease) -> Iterator[None]:
        self._leases.add(lease)
        if self._stopped is not None:  # `stop` was called between the claim and the line above
            lease.stop(self._stopped)
        try:
            yield
        finally:
            self._leases.discard(lease)

    def _calibrator(self, lease: JobLease, turn: contextlib.ExitStack) -> Calibrator:
        """A calibrator that runs on the cluster, then waits for its turn to evaluate here.

        `turn` ends that.
        """

        def calibrate(spec: CalibrationSpec, store: BlockStore, on_event: OnEvent) -> None:
            on_event(Message("Waiting for free resources on the cluster."))
            try:
                self._calibrate(lease, spec, store, on_event)
            except RemoteLostError as error:
                on_event(Message(str(error)))
                raise JobStopped("lost") from error
            finally:
                self._calibrating.discard(lease.job.id)
            while not self._measuring.acquire(timeout=POLL_SECONDS):
                lease.check()
            turn.callback(self._measuring.release)

        return calibrate

    def _calibrate(self, lease: JobLease, spec: CalibrationSpec, store: BlockStore, on_event: OnEvent) -> None:
        need, on_node = self._resources(lease.job), on_one_device(spec)
        model_device = "cpu" if self._services.settings.device == "cpu" else on_node.device
        assignment = Assignment(
            on_node, model_device, fingerprint(spec.model), versions(), need.cpus, store.text_prefix()
        )
        remote = self._cluster.start(need, assignment, stored_blocks(store))
        try:
            follow_remote(remote, store, on_event, lease.check)
        finally:
            remote.stop()


def resources_for(spec: CalibrationSpec, memory_bytes: int, cpus: int) -> Resources:
    """The resources of a calibration that needs this much memory on this many CPUs."""
    return Resources(cpus, int(spec.device.startswith("cuda")), memory_bytes)
