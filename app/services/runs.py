"""Runs: the results of calibrations, as rows and as files."""

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pandas

from abq_core.models.gguf.weights import StoredWeights
from abq_core.text.records import TextRecord
from abq_core.user_files import user_path
from app.runs.run_folder import RunFolder
from app.services import dataframes
from app.services.errors import ServiceError
from app.services.registry import ModelRegistry
from app.services.stored import Storage
from app.services.tasks import TaskService
from app.services.versioned_cache import VersionedCache
from app.settings import Settings
from storage.runs import Run

MAX_RECENT_RUNS = 500  # rows of `newest_frame`: what the page shows must not grow with the database
MAX_NOTE_CHARACTERS = 500
EVALUATIONS_PER_RUN = 4  # read for `newest_frame`, on average


class RunService:
    """Runs with their latest evaluations and their folders."""

    def __init__(self, settings: Settings, storage: Storage, registry: ModelRegistry, tasks: TaskService) -> None:
        self._settings, self._registry, self._tasks = settings, registry, tasks
        self._runs, self._measurements = storage.runs, storage.measurements
        self._newest = VersionedCache(partial(self._read_frame, MAX_RECENT_RUNS), storage.version)
        self._labels = VersionedCache(self._read_labels, storage.version)

    def get(self, run_id: str) -> Run:
        """One run. Raises RunNotFoundError."""
        return self._runs.get(run_id)

    def frame(self) -> pandas.DataFrame:
        """One row per run with its latest evaluation, then one row per model at full precision."""
        return self._read_frame(None)

    def newest_frame(self, measured_on: str = "") -> pandas.DataFrame:
        """`frame` of the newest MAX_RECENT_RUNS runs, without hidden ones.

        measured_on: one of `texts_of`: only evaluations on this text count; "" for the latest of each run.
        Cached: writes of other processes show after STALE_SECONDS.
        """
        return self._newest.read(measured_on).copy()

    def texts_of(self, model: str) -> list[str]:
        """The labels of the texts that a model and its newest runs were evaluated on, the latest first."""
        return self._labels.read(model)

    def folder(self, run_id: str) -> RunFolder:
        """The files of a run. Raises RunNotFoundError."""
        return RunFolder(self._settings.runs_dir, self.get(run_id).id)

    def diagnostics(self, run_id: str, name: str) -> pandas.DataFrame:
        """One diagnostics DataFrame of a finished run, by name. Raises RunFolderError."""
        return self.folder(run_id).read_frame(name)

    def texts(self, run_id: str) -> dict[str, TextRecord]:
        """The calibration texts of a run: "blocks", and "end_to_end" if it had that pass."""
        return self.folder(run_id).read_texts()

    def stored_weights(self, run_id: str) -> StoredWeights | None:
        """How the GGUF file of a run's model stored its weights; None for other models. Raises RunFolderError."""
        return self.folder(run_id).read_stored_weights()

    def set_note(self, run_id: str, note: str) -> None:
        """Store a short note with a run."""
        self._runs.set_note(self.get(run_id).id, note.strip()[:MAX_NOTE_CHARACTERS])

    def delete(self, run_id: str) -> None:
        """Remove a run, its rows and its files. Raises RunBusyError while its job is running."""
        folder = self.folder(run_id)
        self._runs.delete(folder.run_id)
        folder.delete()
        shutil.rmtree(self._settings.exports_dir / folder.run_id, ignore_errors=True)
        self._registry.forget(folder.run_id)

    def export(self, run_id: str, target: Path) -> Path:
        """Copy a run's files and its evaluation to a new folder <run id> in the folder `target`.

        Raises ServiceError.
        """
        run, source = self.get(run_id), self.folder(run_id).path
        folder = user_path(target, ServiceError)
        if not folder.is_dir():
            raise ServiceError(f"{folder} is not a folder. Create it, or name another one.")
        destination = folder / run.id
        if os.path.lexists(destination):
            raise ServiceError(f"{destination} already exists. Name another folder, or remove it.")
        if not source.is_dir():
            raise ServiceError(f"Run {run.id} has no files yet: its job is {run.state}.")
        with tempfile.TemporaryDirectory(prefix=f".{run.id}-", dir=folder) as waiting:
            copied = Path(waiting) / run.id
            try:
                shutil.copytree(source, copied, ignore=shutil.ignore_patterns(".*"))
            except shutil.Error as error:
                _, _, why = error.args[0][0]  # of each file that was not copied
                raise ServiceError(f"Run {run.id} cannot be copied to {folder}: {why}.") from error
            rows = self.frame()
            row = rows[rows["run"] == run.id].iloc[0]
            (copied / "evaluation.json").write_text(row.to_json(indent=2, date_format="iso") + "\n", "utf-8")
            if len(tasks := self._tasks.frame(run.id)):
                text = tasks.to_json(orient="records", indent=2, date_format="iso")
                (copied / "tasks.json").write_text(text + "\n", "utf-8")
            copied.rename(destination)
        return destination

    def _read_frame(self, limit: int | None, measured_on: str = "") -> pandas.DataFrame:
        runs, scored = self._runs.list(limit=limit), None if limit is None else EVALUATIONS_PER_RUN * limit
        evaluations, baselines = self._measurements.evaluations(limit=scored), self._measurements.example_baselines()
        if limit is not None:
            runs = [run for run in runs if not run.hidden]
        if measured_on:
            evaluations = [record for record in evaluations if dataframes.text_label(record.values) == measured_on]
            baselines = [record for record in baselines if dataframes.text_label(record.values) == measured_on]
        return dataframes.runs_frame(runs, evaluations, self._measurements.task_scores(limit=scored), baselines)

    def _read_labels(self, model: str) -> list[str]:
        records = self._measurements.evaluations(limit=EVALUATIONS_PER_RUN * MAX_RECENT_RUNS)
        return list(dict.fromkeys(dataframes.text_label(record.values) for record in records if record.model == model))
