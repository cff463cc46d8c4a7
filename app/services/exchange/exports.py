"""Exports of runs to formats that other runtimes load."""

import json
import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abq_core.imports.spec import is_import
from abq_core.spec import CalibrationSpec
from app import formatting
from app.files import write_atomically
from app.json_values import to_json_text
from app.runs.run_folder import BlockStore
from app.secrets import without_secrets
from app.services.errors import ServiceError
from app.services.models import ModelService
from app.services.registry import ModelRegistry
from app.services.runs import RunService
from app.services.stored import Storage
from app.settings import Settings

if TYPE_CHECKING:
    from abq_core.export.formats import Exported, Options
    from abq_core.export.loading_table import LoadFact
    from abq_core.export.source import ExportSource

_LEFT_SECONDS = 24 * 3600  # no export takes so long
_ANSWER = "answer.json"  # next to a kept export: what `export` returned
OnStep = Callable[[int, int], None]


class ExportService:
    """Writes finished runs in the formats of `abq_core.export`."""

    def __init__(
        self, settings: Settings, storage: Storage, registry: ModelRegistry, models: ModelService, runs: RunService
    ) -> None:
        self._settings, self._storage, self._registry = settings, storage, registry
        self._models, self._runs = models, runs
        self._swapping = threading.Lock()

    def export(
        self, run_id: str, format: str, target: Path, options: "Options | None" = None, on_step: OnStep | None = None
    ) -> "Exported":
        """Write a run to the new folder `target`, load it in its runtime and compare the two.

        on_step(done, total): may raise to stop; then nothing remains.
        Raises ServiceError, RunNotFoundError, ExportError, MissingBlockError, ModelError.
        """
        from abq_core.export.folder import export_target
        from abq_core.export.formats import Options, export_run, format_named

        format_named(format)
        export_target(target)
        run = self._runs.get(run_id)
        if run.state != "succeeded":
            raise ServiceError(f"Run {run.id} is {run.state}: only a finished run can be exported.")
        if is_import(run.spec):
            raise ServiceError(f"Run {run.id} is imported: use its file {run.spec['source']}. Export a calibrated run.")
        environment = without_secrets(os.environ)
        step = on_step or (lambda done, total: None)
        return export_run(self._source(run.id), format, target, options or Options(), environment, step)

    def keep(self, run_id: str, format: str, options: "Options | None", on_step: OnStep) -> dict[str, Any]:
        """Export a run into the data folder, in place of an earlier export in this format.

        Returns what `kept` returns. Raises as `export` does.
        """
        folder = self._kept_folder(run_id, format)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"new-{format}-*"):  # of a process that was killed
            if left.stat().st_mtime < time.time() - _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        waiting = Path(tempfile.mkdtemp(prefix=f"new-{format}-", dir=folder.parent))  # two may be written at a time
        try:
            done = self.export(run_id, format, waiting / f"{run_id}-{format}", options, on_step)
            answer = {**asdict(done), "path": Path(done.path).name}
            write_atomically(waiting / _ANSWER, to_json_text(answer).encode())
            with self._swapping:
                shutil.rmtree(folder, ignore_errors=True)
                waiting.rename(folder)
        finally:
            shutil.rmtree(waiting, ignore_errors=True)
        return answer

    def kept(self, run_id: str, format: str) -> dict[str, Any] | None:
        """The fields of `Exported` of a kept export; None without one. Raises RunNotFoundError, ExportError."""
        file = self._kept_folder(run_id, format) / _ANSWER
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def archive(self, run_id: str, format: str, folder: Path) -> Path:
        """A kept export as a zip file in `folder`. Raises ServiceError without one, RunNotFoundError, ExportError."""
        kept, path = self._kept_folder(run_id, format), folder / f"{run_id}-{format}.zip"
        with self._swapping:  # or the files of two exports could be mixed
            if self.kept(run_id, format) is None:
                raise ServiceError(f"Run {run_id} is not exported to {format} yet: press Export on the Compare tab.")
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
                for file in sorted(kept.rglob("*")):
                    if file.is_file() and file != kept / _ANSWER:
                        archive.write(file, file.relative_to(kept))
        return path

    def loading_table(self, run_id: str) -> "list[LoadFact]":
        """Where a run loads, one row per runtime. Raises RunNotFoundError, ModelError."""
        from abq_core.export.loading_table import loading_table

        spec = CalibrationSpec.from_dict(self._runs.get(run_id).spec)
        return loading_table(spec, self._models.shape(spec.model).family)

    def _kept_folder(self, run_id: str, format: str) -> Path:
        """The folder of a kept export. The run and the format exist, so no input can name another folder."""
        from abq_core.export.formats import format_named

        return self._settings.exports_dir / self._runs.get(run_id).id / format_named(format).name

    def _source(self, run_id: str) -> "ExportSource":
        from abq_core.export.source import ExportSource

        run = self._runs.get(run_id)
        hashes = {block.block: block.sha256 for block in self._storage.runs.blocks(run.id)}
        store = BlockStore(self._runs.folder(run.id), hashes)
        spec = CalibrationSpec.from_dict(run.spec)
        return ExportSource.of(self._registry.full(run.model), spec, store, self._record(run.id))

    def _record(self, run_id: str) -> Mapping[str, str]:
        """What the model card says about a run, by name; no path of this machine is in it."""
        from abq_core.export.model_card import public_name

        run, rows = self._runs.get(run_id), self._runs.frame()
        row = rows[rows["run"] == run.id].iloc[0].to_dict()
        spec = CalibrationSpec.from_dict(run.spec)
        named = replace(spec, model=public_name(spec.model), data=public_name(spec.data))
        record = {
            "method": run.method,
            "precision": run.precision,
            "calibrated on": f"{spec.segments} segments of {spec.seq_len} tokens of {public_name(spec.data)}",
            "command": named.command_line(),
            "run": run.id,
        }
        if formatting.number(row["perplexity"]) is not None:
            data = public_name(str(row["data"]))
            record |= {
                "perplexity": formatting.perplexity(row["perplexity"], row["perplexity_stderr"]),
                "KL to full precision": formatting.kl(row["kl_mean"], row["kl_floor"]),
                "same most likely token as full precision": formatting.percent(row["same_top"]),
                "measured on": f"{row['segments']:.0f} segments of {row['seq_len']:.0f} tokens of {data}",
                "bits per parameter of the run": formatting.bits(row["bits_per_parameter"]),
            }
        return record
