"""Adoption of blocks that another run made from the same inputs.

Mixes with a common prefix share them.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from abq_core.planning.shared_prefix import shared_blocks
from abq_core.precision import PrecisionError
from abq_core.spec import CalibrationSpec, SpecError
from abq_core.text.records import TextRecord
from app.runs.provenance import same_inputs
from app.runs.run_folder import RunFolder
from storage.errors import RunNotFoundError
from storage.runs import BlockRecord, Run, Runs


@dataclass(frozen=True)
class SharedRun:
    """A run with the same first blocks: their records, and the job that made them."""

    folder: RunFolder
    job_id: str
    blocks: list[BlockRecord]

    def files(self) -> Iterator[tuple[BlockRecord, bytes]]:
        """The blocks in order, up to the first whose file is missing or has another sha256."""
        for record in self.blocks:
            data = self.folder.read_block(record.block, record.sha256)
            if data is None:
                return
            yield record, data


def find_shared_run(
    runs: Runs, spec: CalibrationSpec, provenance: Mapping[str, object], folder: RunFolder
) -> SharedRun | None:
    """The run that shares the most leading blocks with this one, or None.

    spec, provenance and folder are those of this run. A run of exactly the same calibration does not count: submitting
    it again means computing it again. Nor does an example: another machine made it.
    """
    texts, best = folder.read_texts(), None
    for run in runs.list(examples=False):
        if run.id == folder.run_id or run.model != spec.model:
            continue
        shared = _shared_block_count(run, spec, run.blocks_done)
        other = RunFolder(folder.path.parent, run.id)
        if shared > (len(best.blocks) if best else 0) and _same_inputs(other, provenance, texts):
            with contextlib.suppress(RunNotFoundError):  # deleted meanwhile
                best = SharedRun(other, run.job_id, list(runs.blocks(run.id))[:shared])
    return best


def _shared_block_count(run: Run, spec: CalibrationSpec, blocks: int) -> int:
    try:
        other = CalibrationSpec.from_dict(run.spec)
    except (SpecError, PrecisionError):  # written by a later version
        return 0
    if other == spec or (other.learns_end_to_end and blocks != run.blocks_total):  # that pass ends with all blocks
        return 0
    return shared_blocks(other, spec, blocks)


def _same_inputs(folder: RunFolder, provenance: Mapping[str, object], texts: Mapping[str, TextRecord]) -> bool:
    """Whether the other run was made from the same model files and texts with the same versions."""
    try:
        return same_inputs(folder.read_spec() or {}, provenance) and folder.read_texts() == texts
    except (OSError, ValueError):  # its files are damaged
        return False
