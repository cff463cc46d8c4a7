"""Blocks that another run here has made already from the same inputs: mixes that begin alike share their first ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from abq_core.planning.shared_prefix import shared_blocks
from abq_core.precision import PrecisionError
from abq_core.spec import CalibrationSpec, SpecError
from abq_core.text.records import TextRecord
from app.runs.provenance import same_ground
from app.runs.run_folder import RunFolder
from storage.runs import BlockRecord, Run, Runs


@dataclass(frozen=True)
class Sibling:
    """A run whose first blocks are this one's: their records, and what its job was."""

    folder: RunFolder
    job_id: str
    blocks: list[BlockRecord]

    def files(self) -> Iterator[tuple[BlockRecord, bytes]]:
        """The blocks in order, up to the first whose file is gone or is not the recorded one."""
        for record in self.blocks:
            data = self.folder.read_block(record.block, record.sha256)
            if data is None:
                return
            yield record, data


def find_sibling(runs: Runs, spec: CalibrationSpec, found: Mapping[str, object], folder: RunFolder) -> Sibling | None:
    """The run that has the most of the first blocks of this one, or None. found, folder: this run's provenance, files.

    A run of the very same calibration is none: who asks for it again wants it made again.
    """
    texts, best = folder.read_texts(), None
    for run in runs.list():
        if run.id == folder.run_id or run.model != spec.model:
            continue
        alike = _alike(run, spec, run.blocks_done)
        other = RunFolder(folder.path.parent, run.id)
        if alike > (len(best.blocks) if best else 0) and _same_ground(other, found, texts):
            best = Sibling(other, run.job_id, list(runs.blocks(run.id))[:alike])
    return best


def _alike(run: Run, spec: CalibrationSpec, blocks: int) -> int:
    try:
        other = CalibrationSpec.from_dict(run.spec)
    except (SpecError, PrecisionError):  # a run of a later version
        return 0
    return 0 if other == spec else shared_blocks(other, spec, blocks)


def _same_ground(folder: RunFolder, found: Mapping[str, object], texts: Mapping[str, TextRecord]) -> bool:
    """Whether the other run was made from the same model files and text, with the same versions."""
    try:
        return same_ground(folder.read_spec() or {}, found) and folder.read_texts() == texts
    except (OSError, ValueError):  # its files are damaged: not this run's to mend
        return False
