"""The services of one process: everything that a tab or a command may ask for. The modules beside it do it."""

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas

from abq_core.mix import ModelPrecision
from abq_core.spec import EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN, CalibrationSpec
from abq_core.text.records import TextRecord
from abq_core.text.sources import NAMES, check_source
from app.clock import now
from app.runs.run_folder import RunFolder
from app.services import frames
from app.services.errors import ServiceError
from app.services.mixes import find_precision
from app.services.versioned_cache import SHARED_SECONDS, Moment, Shared
from app.settings import Settings
from storage.database import Database
from storage.jobs import Job, Jobs
from storage.measurements import Measurements
from storage.runs import Run, Runs

if TYPE_CHECKING:  # torch takes seconds to import: the commands that need no model start without it
    from abq_core.calibration.quantized_block import Engine
    from abq_core.evaluation.perplexity import Evaluation
    from abq_core.evaluation.tasks import TaskScore
    from abq_core.inference.generate import Finished, Token
    from abq_core.models.shape import ModelShape
    from abq_core.planning.allocate import Allocation
    from abq_core.planning.estimate import Estimate
    from app.services.models import ModelRegistry
    from kernels.measurement import KernelMeasurement

BUILTIN = "builtin"
RUNS_SHOWN = 500


class Explorer:
    """One per process. Safe to call from several threads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self._database = database
        self.jobs = Jobs(database)
        self.runs = Runs(database)
        self.measurements = Measurements(database)
        self._registry: ModelRegistry | None = None
        self._registry_lock = threading.Lock()
        self._explored: dict[tuple[str, str], dict[str, pandas.DataFrame]] = {}
        self._jobs_frame = Shared(lambda: frames.jobs_frame(self.jobs.list(), now()), self.moment)
        self._newest_runs_frame = Shared(lambda: self._runs_frame(RUNS_SHOWN), self.moment)
        self._losses_frame = Shared(lambda job: frames.losses_frame(self.jobs.losses(job)), self.moment)
        self._logs = Shared(lambda job: frames.log_text(self.jobs.logs(job)), self.moment)

    @classmethod
    def open(cls, settings: Settings) -> "Explorer":
        """Make the data folder and open the database. Raises SettingsError, DatabaseError."""
        settings.prepare()
        return cls(settings, Database.open(settings.database_url))

    def moment(self) -> Moment:
        """What time it is for what visitors share (`Shared`)."""
        return self._database.writes, int(time.monotonic() / SHARED_SECONDS)

    @property
    def registry(self) -> "ModelRegistry":
        """The models that are loaded in this process."""
        with self._registry_lock:
            if self._registry is None:
                from app.services.models import ModelRegistry

                self._registry = ModelRegistry(self.settings, self.runs)
            return self._registry

    # Models

    def models(self) -> list[str]:
        """The built-in model, then those that the newest runs were made of, newest first."""
        used = [run.model for run in self.runs.list(limit=RUNS_SHOWN) if run.model != BUILTIN]
        return [BUILTIN, *dict.fromkeys(used)]

    def model_shape(self, ref: str) -> "ModelShape":
        """Sizes of a model, from its config alone. Raises ModelError."""
        from abq_core.models.shape import model_shape

        return model_shape(ref)

    def precision(self, text: str | ModelPrecision) -> ModelPrecision:
        """What a text names: the notation, or the name of a mix that a run has. Raises PrecisionError."""
        return find_precision(self.runs, text) if isinstance(text, str) else text

    def estimate(self, ref: str, precision: str | ModelPrecision) -> "Estimate":
        """Size, memory and time of an ordinary calibration, from shapes alone. Raises ModelError, PrecisionError."""
        from abq_core.planning.cost import Work
        from abq_core.planning.estimate import estimate

        device = self.settings.device
        return estimate(self.model_shape(ref), self.precision(precision), Work(device=device, home=device))

    def estimate_of(self, spec: CalibrationSpec) -> "Estimate":
        """What this calibration takes. Raises ModelError."""
        from abq_core.planning.cost import Work
        from abq_core.planning.estimate import estimate

        return estimate(self.model_shape(spec.model), spec.precision, Work.of(spec, home=self.settings.device))

    def explore(self, ref: str, precision: str | ModelPrecision) -> dict[str, pandas.DataFrame]:
        """What rounding to this precision does to the weights; no calibration. Kept for the next call."""
        from abq_core.analysis.explore import explore

        wanted = self.precision(precision)
        key = (ref, str(wanted))
        if key not in self._explored:
            result = explore(self.registry.full(ref), wanted)
            while len(self._explored) >= 8:
                self._explored.pop(next(iter(self._explored)), None)
            self._explored[key] = result
        return self._explored[key]

    def allocate(
        self,
        ref: str,
        candidates: Sequence[str],
        stored_bits: float | None = None,
        stored_bytes: int | None = None,
        data: str = BUILTIN,
        segments: int = 4,
        seq_len: int | None = None,
        seed: int = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> "Allocation":
        """A precision for every linear within one budget. Takes a while where sensitivities are not known yet.

        segments, seq_len, seed: of the calibration text that they are measured on; None for 256 tokens, or the context
        where it is shorter.  on_step(done, total) counts the measuring, and may raise to stop. Raises BudgetError,
        PrecisionError.
        """
        from app.services.allocation import allocate_bits

        text = (local_path(data), segments, seq_len, seed)
        return allocate_bits(self, local_path(ref), candidates, stored_bits, stored_bytes, text, on_step)

    def predictions_frame(self, ref: str) -> pandas.DataFrame:
        """The model's runs whose linears' sensitivities are known: predicted and measured KL to full precision."""
        from app.services.allocation import predictions_frame

        return predictions_frame(self, ref)

    # Jobs

    def submit(self, spec: CalibrationSpec) -> Job:
        """Check that the calibration can run here, then queue it. Raises what `check` does."""
        from abq_core.models.reference import pinned

        spec = dataclasses.replace(spec, model=pinned(local_path(spec.model)), data=local_path(spec.data))
        self.check(spec)
        return self.jobs.submit(spec.to_dict(), now())

    def check(self, spec: CalibrationSpec) -> None:
        """Refuse a calibration that cannot run here. Raises ModelError, EstimateError, DataError."""
        from app.services.preflight import available

        self.estimate_of(spec).refuse(available(self.settings.data_dir, spec.device, self.settings.device))
        check_source(spec.data)

    def job(self, job_id: str) -> Job:
        """One job by job id or run id. Raises JobNotFoundError, RunNotFoundError."""
        return frames.find_job(self.jobs, job_id)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; a queued one is cancelled at once."""
        return self.jobs.request_cancel(self.job(job_id).id, now())

    def resume(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; it goes on after its last finished block. Raises JobStateError."""
        return self.jobs.resume(self.job(job_id).id, now())

    def jobs_frame(self) -> pandas.DataFrame:
        """One row a job, newest first. Shared: what other processes wrote in the last SHARED_SECONDS may be missing."""
        return self._jobs_frame.read().copy()

    def logs(self, job_id: str) -> str:
        """What a job said, one line an entry. Shared as `jobs_frame` is."""
        return self._logs.read(self.job(job_id).id)

    def losses_frame(self, job_id: str) -> pandas.DataFrame:
        """Losses of a job so far: block, epoch, term, value. Shared as `jobs_frame` is."""
        return self._losses_frame.read(self.job(job_id).id).copy()

    # Runs

    def run(self, run_id: str) -> Run:
        """One run. Raises RunNotFoundError."""
        return self.runs.get(run_id)

    def runs_frame(self) -> pandas.DataFrame:
        """One row a run with its latest evaluation, then one row for each model at full precision."""
        return self._runs_frame(None)

    def newest_runs_frame(self) -> pandas.DataFrame:
        """`runs_frame` of the newest RUNS_SHOWN runs: what a page shows must not grow with the database.

        Shared as `jobs_frame` is.
        """
        return self._newest_runs_frame.read().copy()

    def _runs_frame(self, limit: int | None) -> pandas.DataFrame:
        runs, scored = self.runs.list(limit=limit), None if limit is None else 4 * limit
        evaluations, scores = self.measurements.evaluations(limit=scored), self.measurements.task_scores(limit=scored)
        return frames.runs_frame(runs, evaluations, scores)

    def folder(self, run_id: str) -> RunFolder:
        """The files of a run."""
        return RunFolder(self.settings.runs_dir, self.run(run_id).id)

    def diagnostics(self, run_id: str, name: str) -> pandas.DataFrame:
        """One diagnostics frame of a finished run, by name. Raises RunFolderError."""
        return self.folder(run_id).read_frame(name)

    def texts(self, run_id: str) -> dict[str, TextRecord]:
        """Exactly which texts a run learned from: "blocks", and "end_to_end" where there was such a pass."""
        return self.folder(run_id).read_texts()

    def has_full_precision(self, model: str, data: str, segments: int, seq_len: int) -> bool:
        """True where this model was measured at full precision on this much of this text."""
        wanted = {"data": data, "segments": segments, "seq_len": seq_len}
        records = self.measurements.evaluations()
        return any(r.run_id is None and r.model == model and wanted.items() <= r.values.items() for r in records)

    def set_note(self, run_id: str, note: str) -> None:
        """Keep a short text with a run."""
        self.runs.set_note(self.run(run_id).id, note.strip()[:500])

    def delete_run(self, run_id: str) -> None:
        """Remove a run, its rows and its files. Raises RunBusyError while its job is running."""
        folder = self.folder(run_id)
        self.runs.delete(folder.run_id)
        folder.delete()
        if self._registry is not None:
            self._registry.forget(folder.run_id)

    def export_folder(self, run_id: str, target: Path) -> Path:
        """Copy a run's files to a new folder `target`/<run id>, with its evaluation beside them."""
        run, source = self.run(run_id), self.folder(run_id).path
        destination = target.expanduser() / run.id
        if destination.exists():
            raise ServiceError(f"{destination} is there already. Name another folder, or remove it.")
        if not source.is_dir():
            raise ServiceError(f"Run {run.id} has no files yet: its job is {run.state}.")
        shutil.copytree(source, destination, ignore=shutil.ignore_patterns(".*"))
        rows = self.runs_frame()
        row = rows[rows["run"] == run.id].iloc[0]
        (destination / "evaluation.json").write_text(row.to_json(indent=2, date_format="iso") + "\n", "utf-8")
        if len(tasks := self.task_frame(run.id)):
            text = tasks.to_json(orient="records", indent=2, date_format="iso")
            (destination / "tasks.json").write_text(text + "\n", "utf-8")
        return destination

    def report(self, run_ids: Sequence[str], path: Path) -> Path:
        """Write one self-contained HTML file about these runs (all finished ones when empty)."""
        from app.runs.reports import write_report

        return write_report(self, list(run_ids), path)

    # Measurements

    def evaluate(
        self,
        ref_or_run: str,
        data: str = BUILTIN,
        segments: int = EVALUATION_SEGMENTS,
        seq_len: int = EVALUATION_SEQ_LEN,
        on_step: Callable[[int, int], None] | None = None,
    ) -> "Evaluation":
        """Perplexity and distance to full precision of a run, or of a model as it is. Stores the row."""
        from app.services.evaluation import evaluate_run_or_model

        return evaluate_run_or_model(self, ref_or_run, data, segments, seq_len, on_step)

    def evaluate_tasks(
        self,
        ref_or_run: str,
        tasks: Sequence[str],
        limit: int | None = None,
        engine: "Engine" = "simulated",
        on_step: Callable[[str, int, int], None] | None = None,
    ) -> "list[TaskScore]":
        """What zero-shot tasks (names, or paths of .yaml files) give for a run, or a model as it is. Stores the rows.

        Raises TaskError and its kinds.
        """
        from app.services.tasks import measure_tasks

        return measure_tasks(self, ref_or_run, tasks, limit, engine, on_step)

    def task_frame(self, run_id: str | None = None) -> pandas.DataFrame:
        """The latest score of each task, of all runs and models or of one run."""
        return frames.task_frame(self.measurements.task_scores(run_id))

    def generate(
        self,
        columns: Sequence[str],
        prompt: str,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        model: str = BUILTIN,
    ) -> "Iterator[Token | Finished]":
        """Stream text in several columns at once: "full", a run id, or a precision (rounded only).

        model: what "full" and precisions are of; run ids bring their own model, which must be the same in all columns.
        """
        from abq_core.inference.generate import generate

        ref = self.registry.common_model(columns, model)
        loaded = {column: self.registry.column(column, ref) for column in columns}
        return generate(loaded, self.registry.full(ref), prompt, max_new_tokens, temperature, seed)

    def bench_kernels(
        self,
        precisions: Sequence[str],
        shapes: Sequence[tuple[int, int]],
        m: Sequence[int] = (1,),
        threads: int | None = None,
        on_measurement: "Callable[[KernelMeasurement], None] | None" = None,
        peers: Sequence[str] = ("torch",),
        device: str = "cpu",
    ) -> "list[KernelMeasurement]":
        """Time an engine against others on these shapes, each checked first. Stores the rows.

        peers: of `kernels.benchmark.peers`, on the CPU.  device: "cpu" or "cuda".
        Raises CudaError where there is no GPU.
        """
        from app.services import throughput

        if device == "cuda":
            return throughput.measure_gpu(self, precisions, shapes, m, on_measurement)
        threads = threads or self.settings.threads
        return throughput.measure_kernels(self, precisions, shapes, m, threads, on_measurement, peers)

    def bench_decode(
        self,
        columns: Sequence[str] = ("fp32", "bf16", "int8", "W2A8"),
        tokens: int = 64,
        model: str = BUILTIN,
        on_token: Callable[[int], None] | None = None,
        device: str = "cpu",
    ) -> pandas.DataFrame:
        """End-to-end decode of a model: one row a column with tokens/s, time to first token, bytes and the path.

        on_token(count) comes after each token of the first column, and may raise to stop.  device: "cpu" or "cuda".
        Raises CudaError where there is no GPU.
        """
        from app.services.throughput import measure_decode

        return measure_decode(self, columns, tokens, model, on_token, device)

    def throughput_frame(self, shipped: bool = False) -> pandas.DataFrame:
        """Stored throughput measurements, newest first; `kind` is "kernel" or "decode". shipped: then those of other
        machines that come with the program.
        """
        from app.services.timings import shipped_timings

        stored = self.measurements.throughput(1000)
        return frames.throughput_frame([*stored, *shipped_timings()] if shipped else stored)


def local_path(text: str) -> str:
    """A path that is there made absolute, so that a worker in another folder finds it; names stay as they are."""
    path = Path(text).expanduser()
    return str(path.resolve()) if text not in NAMES and path.exists() else text
