"""The files of one run: spec.json, data.json, blocks/NNN.safetensors, diagnostics/*.parquet, and their hashes.

A block file counts only if storage has a record with its sha256.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abq_core.models.gguf.weights import StoredWeights
from abq_core.text.errors import DataError
from abq_core.text.records import TextRecord
from app.files import write_atomically
from app.json_values import to_json_text
from storage.run_ids import is_run_id

if TYPE_CHECKING:
    import pandas
    import torch

_FRAME_NAME = re.compile(r"[a-z_]{1,40}")
_HASHES = "files.json"
_RECORDED_NAME = re.compile(r"(spec|data)\.json|diagnostics/[a-z_]{1,40}\.parquet")


class RunFolderError(ValueError):
    """An invalid run id or file name, or a missing or damaged file of a run."""


class RunFolder:
    """The folder of one run, addressed by run id only, so that no input can name another folder.

    Raises RunFolderError for an invalid run id.
    """

    def __init__(self, runs_dir: Path, run_id: str) -> None:
        if not is_run_id(run_id):
            raise RunFolderError(
                f"{run_id[:60]!r} is not a run id. `abq runs list` shows them; they look like r-0123456789."
            )
        self.run_id = run_id
        self.path = runs_dir / run_id

    def write_spec(self, content: Mapping[str, object]) -> None:
        """Write what determines the run's blocks: calibration, versions and the model's fingerprint."""
        self._write_json("spec.json", content)

    def read_spec(self) -> dict[str, object] | None:
        """The content that `write_spec` wrote, or None before that. Raises RunFolderError if it is damaged."""
        return self._read_json("spec.json")

    def is_recorded_spec(self, content: Mapping[str, object]) -> bool:
        """Whether `write_spec` wrote this content, by the recorded hash. Raises RunFolderError without a record."""
        return self.recorded_files().get("spec.json") == hashlib.sha256(_json_bytes(content)).hexdigest()

    def read_stored_weights(self) -> StoredWeights | None:
        """How the model's GGUF file stores its weights; None for other models and before `write_spec`.

        Raises RunFolderError.
        """
        found: Any = (self.read_spec() or {}).get("weights")
        if found is None:
            return None
        try:
            return StoredWeights(tuple(map(str, found["types"])), float(found["bits"]), bool(found["quantized"]))
        except (KeyError, TypeError, ValueError):
            raise self._damaged("spec.json") from None

    def write_texts(self, records: Mapping[str, TextRecord]) -> None:
        """Record the texts that the run learns from: "blocks", and "end_to_end" with that pass."""
        self._write_json("data.json", {part: record.to_dict() for part, record in records.items()})

    def read_texts(self) -> dict[str, TextRecord]:
        """The records that `write_texts` wrote; empty before that. Raises RunFolderError if they are damaged."""
        try:
            stored = self._read_json("data.json") or {}
            return {part: TextRecord.from_dict(record) for part, record in stored.items()}
        except (DataError, TypeError) as error:
            raise self._damaged("data.json") from error

    def block_path(self, block: int) -> Path:
        """The file of a finished block."""
        return self.path / "blocks" / f"{block:03d}.safetensors"

    def read_block(self, block: int, sha256: str) -> bytes | None:
        """The bytes of a finished block, or None if the file is missing or has another sha256."""
        return _read_checked(self.block_path(block), sha256)

    def draft_path(self, block: int) -> Path:
        """The file of a draft: a block as learned before the end-to-end pass.

        Removed when the run is finished.
        """
        return self.path / "drafts" / f"{block:03d}.safetensors"

    def write_frame(self, name: str, frame: "pandas.DataFrame") -> None:
        """Write one diagnostics frame as Parquet."""
        self._write(self._frame_path(name), frame.to_parquet(index=False))

    def read_frame(self, name: str) -> "pandas.DataFrame":
        """A diagnostics frame by name. Raises RunFolderError if the run has none (yet)."""
        import pandas

        path = self._frame_path(name)
        if not path.is_file():
            raise RunFolderError(
                f"Run {self.run_id} has no '{name}' diagnostics (yet): they are written when its job ends."
            )
        try:
            return pandas.read_parquet(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are of these types
            raise self._damaged(f"diagnostics/{path.name}") from error

    def frame_names(self) -> list[str]:
        """Names of the diagnostics frames that exist, sorted."""
        return sorted(path.stem for path in (self.path / "diagnostics").glob("*.parquet"))

    def recorded_files(self) -> dict[str, str]:
        """The sha256 of each file but the blocks, by its name in the folder; empty for runs of older versions.

        Raises RunFolderError if the record is damaged.
        """
        recorded = self._read_json(_HASHES) or {}
        return {name: str(sha256) for name, sha256 in recorded.items() if _RECORDED_NAME.fullmatch(name)}

    def discard_unreadable(self) -> None:
        """Remove data.json and the record of hashes if they are damaged: a job writes them again."""
        for name, read in (("data.json", self.read_texts), (_HASHES, self.recorded_files)):
            try:
                read()
            except RunFolderError:
                (self.path / name).unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove all files of the run."""
        if self.path.is_dir():
            shutil.rmtree(self.path)

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        self._write(self.path / name, _json_bytes(content))

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file, then record its hash."""
        write_atomically(path, data)
        try:
            recorded = self.recorded_files()
        except RunFolderError:
            recorded = {}
        recorded[path.relative_to(self.path).as_posix()] = hashlib.sha256(data).hexdigest()
        write_atomically(self.path / _HASHES, _json_bytes(recorded))

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(name) from error
        if not isinstance(content, dict):
            raise self._damaged(name)
        return content

    def _damaged(self, name: str) -> "RunFolderError":
        return RunFolderError(
            f"{name} of run {self.run_id} is damaged. Make it again with: abq runs repair {self.run_id}"
        )

    def _frame_path(self, name: str) -> Path:
        if not _FRAME_NAME.fullmatch(name):
            raise RunFolderError(f"{name[:60]!r} is not the name of a diagnostics frame.")
        return self.path / "diagnostics" / f"{name}.parquet"


class BlockStore:
    """The blocks of a run as `abq_core` sees them (its CheckpointStore).

    hashes: block -> sha256 of the recorded blocks. A file with another hash is treated as missing.
    may_write: called before a file is renamed into place; raises if this process no longer owns the job.
    """

    def __init__(
        self, folder: RunFolder, hashes: Mapping[int, str], may_write: Callable[[], None] | None = None
    ) -> None:
        self.hashes = dict(hashes)
        self._folder = folder
        self._may_write = may_write

    def text_prefix(self) -> tuple[int, ...] | None:
        """The first tokens of every segment that the finished blocks learned from.

        None before the first block, and for a run without a record of its text: the tokenizer decides.
        """
        record = self._folder.read_texts().get("blocks") if self.hashes else None
        return None if record is None else record.prefix or ()

    def has(self, block: int) -> bool:
        """True if a finished block was recorded and its file exists; `load` checks its content."""
        return block in self.hashes and self._folder.block_path(block).is_file()

    def load(self, block: int) -> "dict[str, torch.Tensor] | None":
        """The tensors of a block; None if its file is missing or does not match the recorded hash."""
        return self._loaded(block, self._folder.block_path(block))

    def save(self, block: int, tensors: "dict[str, torch.Tensor]") -> str:
        """Make a block durable and remove its draft. Returns its SHA-256.

        The caller records the hash in storage next.
        """
        sha256 = self._write(block, self._folder.block_path(block), tensors)
        self._folder.draft_path(block).unlink(missing_ok=True)
        return sha256

    def load_draft(self, block: int) -> "dict[str, torch.Tensor] | None":
        """Learned values of a block before the end-to-end pass; None as for `load`."""
        return self._loaded(block, self._folder.draft_path(block))

    def save_draft(self, block: int, tensors: "dict[str, torch.Tensor]") -> str:
        """As `save`; the hash is the draft's until the finished block replaces it."""
        return self._write(block, self._folder.draft_path(block), tensors)

    def adopt(self, block: int, data: bytes) -> None:
        """Make the file that another run has of a finished block durable as this run's."""
        self._keep(block, self._folder.block_path(block), data)

    def _loaded(self, block: int, path: Path) -> "dict[str, torch.Tensor] | None":
        from safetensors.torch import load

        expected = self.hashes.get(block)
        data = None if expected is None else _read_checked(path, expected)
        return None if data is None else load(data)

    def _write(self, block: int, path: Path, tensors: "dict[str, torch.Tensor]") -> str:
        from abq_core.calibration.artifacts import to_bytes

        return self._keep(block, path, to_bytes(tensors))

    def _keep(self, block: int, path: Path, data: bytes) -> str:
        write_atomically(path, data, self._may_write)
        self.hashes[block] = hashlib.sha256(data).hexdigest()
        return self.hashes[block]


def _json_bytes(content: Mapping[str, object]) -> bytes:
    return to_json_text(content, sort_keys=True).encode()


def _read_checked(path: Path, sha256: str) -> bytes | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None
