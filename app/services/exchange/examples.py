"""Examples: finished runs of the built-in model that come with the program."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from abq_core.spec import CalibrationSpec
from app.runs.example_archive import ExampleArchive
from app.runs.run_folder import BlockStore, RunFolder
from app.services.registry import ModelRegistry
from app.services.stored import Storage
from app.settings import Settings
from storage.examples import Example, ExampleCounts, Examples
from storage.history import LossRecord
from storage.runs import BlockRecord

SHIPPED = Path(__file__).parents[2] / "shipped" / "examples"


class ExampleService:
    """Adds the examples to a new data folder, and hides them."""

    def __init__(self, settings: Settings, storage: Storage, registry: ModelRegistry) -> None:
        self._settings, self._registry, self._examples = settings, registry, Examples(storage.database)

    def are_expected(self) -> bool:
        """True for a data folder that has no run and never had examples. Raises DatabaseError."""
        return self._examples.are_expected()

    def add_to_new_folder(self) -> bool:
        """Add the examples to a data folder that expects them. Returns whether it did.

        Takes seconds: their blocks are made from the built-in model. All runs appear at once, with their files.
        Raises OSError, DatabaseError, ModelError, ServiceError.
        """
        if not self.are_expected():
            return False
        return self._examples.add_all([self._unpacked(path) for path in sorted(SHIPPED.glob("*.tar.xz"))])

    def hide(self, hidden: bool) -> None:
        """Hide the examples from the page, or show them again."""
        self._examples.hide(hidden)

    def counts(self) -> ExampleCounts:
        """How many examples are left, and how many of them are hidden."""
        return self._examples.counts()

    def _unpacked(self, path: Path) -> Example:
        """Write the files of one example, and return its rows."""
        from safetensors.torch import load

        from abq_core.calibration.compact_block import whole_block
        from abq_core.calibration.rotation import starting_model

        archive = ExampleArchive.read(path)
        record, spec = archive.record, CalibrationSpec.from_dict(archive.spec["spec"])
        folder = RunFolder(self._settings.runs_dir, record["run"])
        folder.write_spec(archive.spec)
        folder.write_texts(archive.texts)
        for name, frame in archive.frames.items():
            folder.write_frame(name, frame)
        base, _ = starting_model(self._registry.full(spec.model), spec)
        store = BlockStore(folder, {})
        hashes = [
            store.save(index, whole_block(base, spec, index, load(data))) for index, data in enumerate(archive.blocks)
        ]
        finished = datetime.fromisoformat(record["finished_at"])
        return Example(
            run_id=folder.run_id,
            spec=spec.to_dict(),
            started_at=datetime.fromisoformat(record["started_at"]),
            finished_at=finished,
            log=_origin(record, archive.spec),
            blocks=[
                BlockRecord(index, sha256, **row, recorded_at=finished)
                for index, (sha256, row) in enumerate(zip(hashes, record["blocks"], strict=True))
            ],
            losses=[LossRecord(**row, recorded_at=finished) for row in record["losses"]],
            evaluation=record["evaluation"],
            baseline=record["baseline"],
        )


def _origin(record: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """The line of an example's log."""
    versions = ", ".join(f"{name} {version}" for name, version in spec["versions"].items())
    made = record["made"]
    return f"An example that came with the program, made with `{made['command']}` on {made['processor']} ({versions})."
