"""Shared by the checks.

A model of six blocks that calibrates in seconds, services, and workers that can be killed.
Workers are forked from a server that has imported torch, so one starts in milliseconds and hundreds can be killed.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from abq_core.models.reference import BUILTIN_FOLDER
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.clock import now
from app.jobs.lease import JobLease
from app.services import open_services
from app.settings import Settings
from storage.jobs import Job

BLOCKS = 6
_TEXT = "The module provides functions to read and write files, one line at a time. " * 2000


def fork_context() -> ForkServerContext:
    """A context whose processes are forked from a server that has the imports of a worker."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["app.jobs.calibration_job", "soak_workers"])
    return context


def make_model(folder: Path, blocks: int) -> Path:
    """A Llama with this many blocks, random weights and the built-in model's tokenizer."""
    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in BUILTIN_FOLDER.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return folder


class Site:
    """A data folder with a model, a text, and services."""

    def __init__(self, work: Path, blocks: int = BLOCKS) -> None:
        self.model = make_model(work / "model", blocks)
        self.text = work / "text.txt"
        self.text.write_text(_TEXT, "utf-8")
        self.settings = settings_in(work / "data")
        self.services = open_services(self.settings)
        self.jobs = self.services.storage.jobs

    def spec(self, method: str = "abq", epochs: int = 4, **changes: object) -> CalibrationSpec:
        values: dict[str, Any] = {"data": str(self.text), "segments": 4, "seq_len": 64, "epochs": epochs, **changes}
        return CalibrationSpec(str(self.model), Precision.parse("W4A4"), method, **values)

    def submit(self, method: str = "abq", **changes: Any) -> Job:
        return self.services.jobs.submit(self.spec(method, **changes))

    def hashes(self, run_id: str) -> list[str]:
        """The recorded hash of each block of a run."""
        return [block.sha256 for block in self.services.storage.runs.blocks(run_id)]

    def files(self, run_id: str) -> dict[str, str]:
        """The sha256 of every file of a run by its path."""
        folder = self.services.runs.folder(run_id).path
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def start(self, name: str, die_at: "DieAt | None" = None) -> BaseProcess:
        """Start a worker process, which claims the oldest job."""
        return _start(work, self.settings.to_environment(), name, die_at)

    def finish(self, name: str = "finisher") -> None:
        """Run the oldest job in a separate process, to its end."""
        worker = self.start(name)
        worker.join()
        self.jobs.requeue_worker(name, now())

    def uninterrupted(self, epochs: int = 4) -> list[str]:
        """The block hashes of an undisturbed abq run."""
        job = self.submit(epochs=epochs)
        self.finish()
        hashes = self.hashes(job.run_id)
        if self.jobs.get(job.id).state != "succeeded":
            raise RuntimeError(self.services.jobs.log(job.id))
        return hashes

    def learning(self, job: Job) -> bool:
        """Whether the job has recorded a loss."""
        return len(self.jobs.losses(job.id)) > 0


DieAt = tuple[str, int]  # ("inside" | "before" its record | "after" it, block)


def settings_in(folder: Path) -> Settings:
    return Settings.from_environment({"ABQ_DATA_DIR": str(folder), "ABQ_THREADS": "1", "ABQ_NICENESS": "0"})


def _start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    process = fork_context().Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def work(environment: dict[str, str], name: str, die_at: DieAt | None) -> None:
    """Run a worker; `die_at` kills it at that point.

    Its evaluation is short, so blocks take most of its time.
    """
    from app.jobs import calibration_job
    from app.jobs.worker import run_one

    plan = calibration_job.EvaluationPlan(2, 64)
    calibration_job.run_claimed = partial(calibration_job.run_claimed, plan=plan)  # type: ignore[assignment]
    if die_at is not None:
        _die_at(*die_at)
    run_one(Settings.from_environment(environment), name, None)


def _die_at(where: str, block: int) -> None:
    from abq_core.events import BlockDone, Event, StepDone
    from app.jobs.calibration_job import CalibrationJob

    original = CalibrationJob._on_event

    def on_event(job: CalibrationJob, event: Event) -> None:
        done = isinstance(event, BlockDone) and event.block == block
        if (where == "before" and done) or (
            where == "inside" and isinstance(event, StepDone) and (event.block, event.step) == (block, 5)
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        original(job, event)
        if where == "after" and done:
            os.kill(os.getpid(), signal.SIGKILL)

    CalibrationJob._on_event = on_event  # type: ignore[method-assign]


def start_busy(site: Site, name: str, seconds: float) -> BaseProcess:
    """A worker whose main thread computes for `seconds` without checking its lease."""
    return _start(_busy, site.settings.to_environment(), name, seconds)


def _busy(environment: dict[str, str], name: str, seconds: float) -> None:
    services = open_services(Settings.from_environment(environment))
    job = services.storage.jobs.claim_next(name, now())
    assert job is not None
    with JobLease(services.storage.jobs, job):
        end, number = time.monotonic() + seconds, 1
        while time.monotonic() < end:
            number = number * 48271 % 2147483647
        services.storage.jobs.finish(job.id, job.epoch, now())


@contextmanager
def ended(*processes: BaseProcess) -> Iterator[None]:
    """Kill the processes at the end of the block, stopped ones too."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()
