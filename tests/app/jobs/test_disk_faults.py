"""The disk fails during a job.

Files hold the old state or the new one, and the job can be resumed afterwards.
"""

import errno
import hashlib
import os
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from app_cases import SpecMaker, work_on
from sqlalchemy.engine.default import DefaultDialect

from app.clock import now
from app.services import Services
from storage.errors import DatabaseError
from storage.jobs import Job


def fail(monkeypatch: pytest.MonkeyPatch, what: str, at: int) -> None:
    """Make call number `at` of fsync, rename or commit fail; "answered" commits take effect, then report failure."""
    error: Exception = OSError(errno.EIO, "Input/output error")
    target: Any = os
    name = {"fsync": "fsync", "rename": "replace"}.get(what, "do_commit")
    if name == "do_commit":
        target, error = DefaultDialect, sqlite3.OperationalError("disk I/O error")
    original: Callable[..., object] = getattr(target, name)
    calls = [0]

    def function(*arguments: object) -> object:
        calls[0] += 1
        result = original(*arguments) if calls[0] != at or what == "answered" else None
        if calls[0] == at:
            raise error
        return result

    monkeypatch.setattr(target, name, function)


def partial_state(services: Services, job: Job) -> list[str]:
    """Records whose file has another sha256, and temporary files."""
    folder = services.runs.folder(job.run_id)
    wrong = [str(path) for path in folder.path.rglob("*.tmp")]
    for block in services.storage.runs.blocks(job.run_id):
        content = folder.block_path(block.block).read_bytes()
        wrong += [str(block)] if hashlib.sha256(content).hexdigest() != block.sha256 else []
    return wrong


@pytest.mark.parametrize(
    ("what", "at"), [("fsync", 5), ("fsync", 6), ("rename", 3), ("commit", 8), ("answered", 8), ("answered", 11)]
)
def test_a_fault_leaves_no_partial_state_and_the_job_resumes(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, what: str, at: int
) -> None:
    job = services.jobs.submit(tiny_spec("W4A4", "rtn"))
    with monkeypatch.context() as patch:
        fail(patch, what, at)
        try:
            ended = work_on(services, job)
            assert ended.state in ("failed", "succeeded")
        except DatabaseError:
            pass
    assert not partial_state(services, job)
    services.storage.jobs.requeue_worker("test", now())
    if services.jobs.get(job.id).state == "failed":
        services.jobs.resume(job.id)
    if services.jobs.get(job.id).state == "queued":
        work_on(services, services.jobs.get(job.id))
    assert services.jobs.get(job.id).state == "succeeded" and len(services.storage.runs.blocks(job.run_id)) == 2
