"""One calibration job from claim to end: calibrate, diagnose, evaluate; and running a claimed job of any kind.

Stores the results of abq_core.
"""

import errno
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from torch import Tensor

from abq_core.analysis.block_frames import Frames
from abq_core.analysis.diagnostics import diagnose
from abq_core.calibration.calibrate import calibrate
from abq_core.calibration.calibration_text import read_text
from abq_core.calibration.rotation import starting_model
from abq_core.events import BlockDone, EpochDone, Event, Message, OnEvent, Started, TextRead
from abq_core.imports.spec import is_import
from abq_core.spec import CalibrationSpec
from abq_core.text.records import TextRecord
from abq_core.text.segments import SHORTEST_EVALUATION
from app.clock import now
from app.jobs.claimed_job import ClaimedJob, EvaluationPlan, OnProgress
from app.jobs.error_details import FILE as ERRORS_FILE
from app.jobs.error_details import is_own, stack_of, write_details
from app.jobs.import_job import ImportJob
from app.jobs.lease import JobLease, JobStopped
from app.jobs.progress import Progress
from app.runs.block_adoption import find_shared_run
from app.runs.provenance import provenance, what_changed
from app.runs.run_folder import BlockStore
from app.secrets import redacted
from app.services import Services
from app.services.errors import ServiceError
from storage.errors import DatabaseError, JobNotFoundError, LostLeaseError

__all__ = ["CalibrationJob", "Calibrator", "EvaluationPlan", "run_claimed", "sentence_for"]

Calibrator = Callable[[CalibrationSpec, BlockStore, OnEvent], None]  # computes the blocks that the store lacks


class CalibrationJob(ClaimedJob):
    """The work of one claimed calibration.

    calibrator: computes the blocks, by default in this process. Diagnostics and evaluation always run here.
    The other arguments are those of `ClaimedJob`.
    """

    def __init__(
        self,
        lease: JobLease,
        services: Services,
        plan: EvaluationPlan | None = None,
        on_progress: OnProgress | None = None,
        calibrator: Calibrator | None = None,
    ) -> None:
        self._spec = CalibrationSpec.from_dict(lease.job.spec)
        progress = Progress(learns=self._spec.active_epochs > 0)
        super().__init__(lease, services, progress, plan, on_progress)
        self._calibrate = calibrator or self._calibrate_here

    def run(self) -> None:
        """Calibrate, diagnose, evaluate and finish the job. `run_claimed` handles the exceptions."""
        self._log(f"Started: {self._spec.command_line()}")
        self._store_progress(force=True)
        self._write_spec()
        self._calibrate(self._spec, self._store, self._on_event)
        self._diagnose()
        self._evaluate(self._spec.model, self._spec.data)
        self._finish()

    @cached_property
    def _provenance(self) -> dict[str, object]:
        return provenance(self._spec)

    def _calibrate_here(self, spec: CalibrationSpec, store: BlockStore, on_event: OnEvent) -> None:
        """Read the text, adopt blocks of an earlier run with the same inputs, calibrate the rest."""
        base = self._registry.full(spec.model)
        self._lease.check()
        text = read_text(base, spec, on_event, store.text_prefix())
        self._evaluation_text(base, spec.data, *SHORTEST_EVALUATION)  # a text that is too short ends here
        if not store.hashes:
            self._adopt_shared_blocks()
        calibrate(base, spec, store, on_event, text)

    def _write_spec(self) -> None:
        before = self._folder.read_spec()
        changed = what_changed(before, self._provenance) if before is not None and self._store.hashes else None
        if changed:
            raise ServiceError(
                f"Since this run began, {changed}, so its {len(self._store.hashes)} finished blocks no longer fit. "
                "Start a new calibration."
            )
        self._folder.write_spec(self._provenance)

    def _on_event(self, event: Event) -> None:
        ids = self._ids()
        self._progress.calibration_event(event)
        if isinstance(event, EpochDone):
            self._jobs.record_losses(*ids, event.block, event.epoch, dict(event.losses))
        elif isinstance(event, BlockDone):
            if event.sha256 is not None:
                self._jobs.record_block(*ids, event.block, event.sha256, event.seconds, dict(event.distances))
            self._log(self._progress.message)
        elif isinstance(event, TextRead):
            self._record_text(event.part, event.record)
        elif isinstance(event, Message):
            self._log(event.text)
        self._store_progress(force=isinstance(event, BlockDone | Started))
        self._lease.check()

    def _record_text(self, part: str, record: TextRecord) -> None:
        """Record the text that the blocks or the end-to-end pass learn from.

        Raises ServiceError if the finished blocks learned from another text.
        """
        records = self._folder.read_texts()
        before = records.get(part)
        if before is not None and self._store.hashes and before != record:
            raise ServiceError(
                f"The text '{record.source}' changed since this run began ({before.revision}, now {record.revision}), "
                f"so its {len(self._store.hashes)} finished blocks no longer fit. Start a new calibration."
            )
        self._folder.write_texts({**records, part: before if before == record else record})

    def _adopt_shared_blocks(self) -> None:
        """Adopt the first blocks of a run with the same inputs, with their losses and distances."""
        shared = find_shared_run(self._runs, self._spec, self._provenance, self._folder)
        if shared is None:
            return
        try:
            losses = self._jobs.losses(shared.job_id)
        except JobNotFoundError:  # the run was deleted meanwhile
            return
        for record, data in shared.files():
            ids = self._ids()
            self._store.adopt(record.block, data)
            for loss in losses:
                if loss.block == record.block:
                    self._jobs.record_losses(*ids, loss.block, loss.step, loss.terms)
            self._jobs.record_block(*ids, record.block, record.sha256, 0.0, record.distances)
            self._lease.check()
        of = f"run {shared.folder.run_id}, which made them from the same inputs"
        self._log(f"Blocks adopted from {of}: {len(self._store.hashes)}.")

    def _diagnose(self) -> None:
        spec = self._spec
        base, precision = starting_model(self._registry.full(spec.model), spec)

        def frames_of(text: Tensor, on_event: OnEvent, prefix: int) -> Frames:
            return diagnose(base, precision, self._store, text, on_event, prefix)

        self._write_diagnostics(base, spec.data, (spec.segments, spec.seq_len), frames_of)


def run_claimed(
    services: Services,
    lease: JobLease,
    plan: EvaluationPlan | None = None,
    on_progress: OnProgress | None = None,
    calibrator: Calibrator | None = None,
) -> None:
    """Run a claimed job, whose lease is entered, and record its outcome.

    Outcomes: succeeded, failed, cancelled or queued again.
    Errors of the job are recorded, not raised. A calibrator raises JobStopped("lost") if the process that calibrates
    died: nothing is recorded, and the caller requeues the job. calibrator, on_progress: see CalibrationJob.
    """
    jobs, ids = services.storage.jobs, (lease.job.id, lease.job.epoch)
    try:
        try:
            if is_import(lease.job.spec):
                ImportJob(lease, services, plan, on_progress).run()
            else:
                CalibrationJob(lease, services, plan, on_progress, calibrator).run()
        except JobStopped as stop:
            if stop.reason == "cancelled":
                jobs.end_cancelled(*ids, now())
            elif stop.reason == "shutdown":
                jobs.release(*ids, now(), "Its worker was asked to stop.")
        except (LostLeaseError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a library's panic is no Exception; unrecorded, it would end three attempts
            write_details(error, lease.job.id, services.settings.logs_dir)
            jobs.log(*ids, now(), redacted(stack_of(error)))
            jobs.fail(*ids, now(), redacted(sentence_for(error, services.settings.data_dir)))
    except LostLeaseError:
        return  # another worker owns the job: this one may write nothing


def sentence_for(error: BaseException, data_dir: Path) -> str:
    """One sentence for the user: what went wrong and what to do.

    It quotes messages of this program and of the operating system only.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {data_dir} is full. Free some space, then resume the job: finished blocks are kept."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        return "There was not enough memory. Use fewer segments, a shorter --seq-len or a smaller model."
    if isinstance(error, DatabaseError):
        return f"The database could not be written: {_first_line(error)} Resume the job when the database works again."
    if is_own(error) or isinstance(error, OSError):
        return _first_line(error)
    return (
        f"The job failed with {type(error).__name__}. Its log says where; the message is in {ERRORS_FILE} in the logs "
        f"folder of {data_dir}."
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message."
