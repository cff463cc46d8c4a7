"""Random job and worker histories, checked step by step against an ownership model."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from sqlalchemy import text
from storage_cases import SPEC, Clock

from storage.database import Database
from storage.errors import JobStateError, LostLeaseError, RunBusyError
from storage.jobs import Job, Jobs
from storage.lifecycle import MAX_ATTEMPTS
from storage.runs import Runs


@dataclass
class Expected:
    """The expected state of a job."""

    state: str = "queued"
    epoch: int = 0
    attempts: int = 0
    cancel: bool = False
    blocks: dict[int, str] = field(default_factory=dict)

    def end(self, state: str) -> None:
        self.state, self.cancel = state, False

    def end_attempt(self) -> None:
        if self.cancel:
            self.end("cancelled")
        else:
            self.end("failed" if self.attempts >= MAX_ATTEMPTS else "queued")


class History(RuleBasedStateMachine):
    """The state machine.

    Stale claims stay in the bundle: a write succeeds only if the model says it owns the job.
    """

    submitted: Bundle[Job] = Bundle("submitted")
    claims: Bundle[Job] = Bundle("claims")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self.folder.name) / "abq.db")
        self.jobs, self.runs, self.clock = Jobs(self.database), Runs(self.database), Clock()
        self.expected: dict[str, Expected] = {}

    def teardown(self) -> None:
        with self.database.reading() as session:
            assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        self.database.close()
        self.folder.cleanup()

    def as_owner(self, claim: Job, write: Callable[[], Any]) -> Expected | None:
        """Try the write.

        Returns the expected job if the claim owns it; otherwise checks for LostLeaseError.
        """
        expected = self.expected.get(claim.id)
        if expected is not None and expected.state == "running" and expected.epoch == claim.epoch:
            write()
            return expected
        with pytest.raises(LostLeaseError):
            write()
        return None

    @rule(target=submitted)
    def submit(self) -> Job:
        job = self.jobs.submit(SPEC, self.clock.now)
        self.expected[job.id] = Expected()
        return job

    @rule(target=claims)
    def claim(self) -> Any:
        queued = [job_id for job_id, expected in self.expected.items() if expected.state == "queued"]
        job = self.jobs.claim_next("w", self.clock.now)
        assert (job and job.id) == (queued[0] if queued else None)
        if job is None:
            return multiple()
        expected = self.expected[job.id]
        expected.state, expected.epoch, expected.attempts = "running", expected.epoch + 1, expected.attempts + 1
        return job

    @rule(claim=claims, block=st.integers(0, 2), sha256=st.sampled_from("ab"))
    def record_block(self, claim: Job, block: int, sha256: str) -> None:
        expected = self.as_owner(
            claim, lambda: self.jobs.record_block(claim.id, claim.epoch, self.clock.now, block, sha256, 1.0, {})
        )
        if expected:
            if block not in expected.blocks:
                expected.attempts = 0
            expected.blocks[block] = sha256

    @rule(claim=claims)
    def finish(self, claim: Job) -> None:
        if expected := self.as_owner(claim, lambda: self.jobs.finish(claim.id, claim.epoch, self.clock.now)):
            expected.end("succeeded")

    @rule(claim=claims)
    def fail(self, claim: Job) -> None:
        if expected := self.as_owner(claim, lambda: self.jobs.fail(claim.id, claim.epoch, self.clock.now, "no")):
            expected.end("failed")

    @rule(claim=claims)
    def release(self, claim: Job) -> None:
        if expected := self.as_owner(claim, lambda: self.jobs.release(claim.id, claim.epoch, self.clock.now, "no")):
            expected.attempts = max(0, expected.attempts - 1)
            expected.end_attempt()

    @rule(claim=claims)
    def end_cancelled(self, claim: Job) -> None:
        if expected := self.as_owner(claim, lambda: self.jobs.end_cancelled(claim.id, claim.epoch, self.clock.now)):
            expected.end("cancelled")

    @rule()
    def all_workers_die(self) -> None:
        running = [job_id for job_id, expected in self.expected.items() if expected.state == "running"]
        assert [job.id for job in self.jobs.requeue_expired(self.clock.move(31))] == running
        for job_id in running:
            self.expected[job_id].end_attempt()

    @rule(job=submitted)
    def cancel(self, job: Job) -> None:
        if expected := self.expected.get(job.id):
            self.jobs.request_cancel(job.id, self.clock.now)
            if expected.state == "queued":
                expected.end("cancelled")
            expected.cancel = expected.state == "running"

    @rule(job=submitted)
    def resume(self, job: Job) -> None:
        if expected := self.expected.get(job.id):
            if expected.state in ("failed", "cancelled"):
                self.jobs.resume(job.id, self.clock.now)
                expected.state, expected.attempts = "queued", 0
            else:
                with pytest.raises(JobStateError):
                    self.jobs.resume(job.id, self.clock.now)

    @rule(job=submitted)
    def delete(self, job: Job) -> None:
        if expected := self.expected.get(job.id):
            if expected.state == "running":
                with pytest.raises(RunBusyError):
                    self.runs.delete(job.run_id)
            else:
                self.runs.delete(job.run_id)
                del self.expected[job.id]

    @invariant()
    def database_and_model_agree(self) -> None:
        found = {
            job.id: Expected(
                job.state,
                job.epoch,
                job.attempts,
                job.cancel_requested,
                {record.block: record.sha256 for record in self.jobs.blocks(job.run_id)},
            )
            for job in self.jobs.list()
        }
        assert found == self.expected


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
