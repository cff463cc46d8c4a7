"""What the jobs of all kinds have in common: lease, progress, log, and the evaluation at the end."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import torch

from abq_core.analysis.block_frames import Frames
from abq_core.analysis.diagnostics import DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN
from abq_core.events import Event, OnEvent
from abq_core.models.loading import LoadedModel
from abq_core.spec import EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN
from abq_core.text.records import TextRecord
from abq_core.text.segments import evaluation_segments
from app.clock import now
from app.jobs.lease import JobLease, throttled
from app.jobs.progress import Progress
from app.runs.run_folder import BlockStore, RunFolder
from app.secrets import redacted
from app.services import Services
from app.services.evaluation import EVALUATION_SEED, EvaluationText

PROGRESS_SECONDS = 0.5
OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class EvaluationPlan:
    """The amount of text that the job's evaluation reads: segments of `seq_len` tokens."""

    segments: int = EVALUATION_SEGMENTS
    seq_len: int = EVALUATION_SEQ_LEN


class ClaimedJob(ABC):
    """One claimed job of a run.

    plan: the text that the evaluation reads.
    on_progress: called about twice a second, and after every block.
    """

    def __init__(
        self,
        lease: JobLease,
        services: Services,
        progress: Progress,
        plan: EvaluationPlan | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._jobs, self._runs = services.storage.jobs, services.storage.runs
        self._registry, self._evaluation = services.registry, services.evaluation
        self._lease, self._job, self._progress = lease, lease.job, progress
        self._plan = plan or EvaluationPlan()
        self._on_progress = on_progress
        self._store_progress = throttled(self._write_progress, PROGRESS_SECONDS)
        self._folder = RunFolder(services.settings.runs_dir, self._job.run_id)
        blocks = {block.block: block.sha256 for block in self._runs.blocks(self._job.run_id)}
        self._store = BlockStore(self._folder, blocks, lease.assert_owned)

    @abstractmethod
    def run(self) -> None:
        """Do the work and finish the job. `run_claimed` handles the exceptions."""

    def _write_diagnostics(
        self,
        base: LoadedModel,
        data: str,
        limits: tuple[int, int],
        frames_of: Callable[[torch.Tensor, OnEvent, int], Frames],
    ) -> None:
        """Write the diagnostics, frames_of(text, on_event, prefix). limits: segments and tokens of each, at most."""
        self._progress.diagnosing()
        self._store_progress(force=True)
        count, seq_len = min(DIAGNOSED_SEGMENTS, limits[0]), min(DIAGNOSED_SEQ_LEN, limits[1])
        text, record = self._evaluation_text(base, data, count, seq_len)
        blocks, events = max(len(self._store.hashes), 1), 0

        def on_event(event: Event) -> None:  # one Message per block
            nonlocal events
            events += 1
            self._progress.diagnosing(min(events / blocks, 1.0))
            self._store_progress()
            self._lease.check()

        for name, frame in frames_of(text, on_event, record.prefix_tokens).items():
            self._folder.write_frame(name, frame)

    def _evaluate(self, model: str, data: str) -> None:
        self._progress.evaluating()
        self._store_progress(force=True)
        base = self._registry.full(model)
        seq_len = min(self._plan.seq_len, base.context)
        requested = (self._plan.segments, seq_len)
        segments, seq_len = self._evaluation_text(base, data, *requested)[0].shape
        if (segments, seq_len) != requested:
            self._log(f"The evaluation text is short: {segments} segments of {seq_len} tokens are read, all it has.")
        baseline = not self._evaluation.has_full_precision(model, data, segments, seq_len)
        parts = [model, self._job.run_id] if baseline else [self._job.run_id]
        for index, part in enumerate(parts):

            def on_step(step: int, steps: int, index: int = index) -> None:
                self._progress.evaluating((index + step / max(steps, 1)) / len(parts))
                self._store_progress()
                self._lease.check()

            self._evaluation.evaluate(part, EvaluationText(data, segments, seq_len, held_out=True), on_step)

    @staticmethod
    def _evaluation_text(base: LoadedModel, data: str, count: int, seq_len: int) -> tuple[torch.Tensor, TextRecord]:
        """`count` segments of the evaluation text, or all that a short text has, and their record."""
        return evaluation_segments(data, base.tokenizer, count, seq_len, EVALUATION_SEED)

    def _finish(self) -> None:
        self._jobs.finish(*self._ids())

    def _ids(self) -> tuple[str, int, datetime]:
        """Job, epoch and time: the first arguments of every write."""
        return self._job.id, self._job.epoch, now()

    def _write_progress(self) -> None:
        progress = self._progress
        self._jobs.progress(*self._ids(), progress.fraction, progress.message, progress.eta_seconds, progress.blocks)
        if self._on_progress is not None:
            self._on_progress(progress)

    def _log(self, text: str) -> None:
        self._jobs.log(*self._ids(), redacted(text))
