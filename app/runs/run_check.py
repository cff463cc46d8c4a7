"""Checks of run folders: missing or changed files, and files that no run needs."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.runs.provenance import same_calibration
from app.runs.run_folder import RunFolder, RunFolderError
from storage.jobs import Jobs
from storage.run_ids import is_run_id
from storage.runs import Run, Runs

_ACTIVE = ("queued", "running")


@dataclass(frozen=True)
class Leftover:
    """A file or folder that no run needs, its size in bytes, and the reason."""

    path: Path
    bytes: int
    why: str

    def remove(self) -> None:
        """Delete it. It is not an error if it no longer exists."""
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def verify(runs: Runs, runs_dir: Path, run: Run) -> list[str]:
    """The problems of a run's files, one sentence each.

    Empty if every recorded file exists unchanged.
    """
    folder = RunFolder(runs_dir, run.id)
    problems = []
    records = runs.blocks(run.id)
    for record in records:
        paths = [path for path in (folder.block_path(record.block), folder.draft_path(record.block)) if path.is_file()]
        if not paths:
            problems.append(f"The file of block {record.block} is missing.")
        elif record.sha256 not in map(_sha256, paths):
            problems.append(f"The file of block {record.block} differs from the recorded one.")
    if run.state == "succeeded" and run.blocks_total not in (None, len(records)):
        problems.append(f"{len(records)} of its {run.blocks_total} blocks are recorded.")
    if run.state == "succeeded" or records:
        problems += _spec_problems(folder, run)
    return problems + _file_problems(folder, run)


def leftovers(runs: Runs, jobs: Jobs, runs_dir: Path) -> list[Leftover]:
    """Removable files: deleted runs, temporary files and unrecorded blocks of inactive runs.

    Only files and folders with the names of runs and blocks are considered; links are left unchanged.
    """
    known = {run.id: run for run in runs.list()}
    found = []
    for folder in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []:
        if folder.is_symlink() or not folder.is_dir() or not is_run_id(folder.name):
            continue
        run = known.get(folder.name)
        if run is None:
            found.append(Leftover(folder, sum(map(_size, folder.rglob("*"))), "its run was deleted"))
        elif run.state not in _ACTIVE and jobs.get(run.job_id).state not in _ACTIVE:  # it may have started since
            found += _unneeded(folder, {record.block: record.sha256 for record in runs.blocks(run.id)})
    return found


def _unneeded(folder: Path, hashes: dict[int, str]) -> Iterator[Leftover]:
    for path in sorted(folder.rglob(".*.tmp")):
        yield Leftover(path, _size(path), "its writer died")
    finished = {path.name for path in (folder / "blocks").glob("*.safetensors")}
    for kind in ("blocks", "drafts"):
        for path in sorted((folder / kind).glob("[0-9]*.safetensors")):
            recorded = hashes.get(int(path.stem)) if path.stem.isdecimal() else None
            if recorded is None:
                yield Leftover(path, _size(path), "it was never recorded and would be computed again")
            elif kind == "drafts" and path.name in finished and recorded != _sha256(path):
                yield Leftover(path, _size(path), "the finished block replaced it")


def _spec_problems(folder: RunFolder, run: Run) -> list[str]:
    try:
        content = folder.read_spec()
    except RunFolderError:
        return ["Its spec.json cannot be read."]
    if content is None:
        return ["Its spec.json is missing."]
    return [] if same_calibration(content.get("spec"), run.spec) else ["Its spec.json belongs to another calibration."]


def _file_problems(folder: RunFolder, run: Run) -> list[str]:
    """Problems of the files besides blocks and spec.json: compared with their hashes, or read if none is recorded."""
    try:
        recorded = folder.recorded_files()
    except RunFolderError:
        return ["Its files.json cannot be read."]
    problems = []
    for name, sha256 in sorted(recorded.items()):
        if name == "spec.json":  # checked by its content
            continue
        if not (folder.path / name).is_file():
            problems.append(f"Its {name} is missing.")
        elif _sha256(folder.path / name) != sha256:
            problems.append(f"Its {name} differs from the recorded one.")
    unrecorded = [name for name in folder.frame_names() if f"diagnostics/{name}.parquet" not in recorded]
    readers: dict[str, Callable[[], object]] = {"data.json": folder.read_texts} if "data.json" not in recorded else {}
    readers |= {f"diagnostics/{name}.parquet": partial(folder.read_frame, name) for name in unrecorded}
    for name, read in readers.items():
        try:
            read()
        except RunFolderError:
            problems.append(f"Its {name} cannot be read.")
    if run.state == "succeeded" and not recorded and not folder.frame_names():
        problems.append("Its diagnostics are missing.")
    return problems


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.lstat().st_size if path.is_symlink() or path.is_file() else 0
