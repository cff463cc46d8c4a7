"""Diagnostics of an import: its weights, block outputs and attention against the base model, block by block."""

from collections import defaultdict

import pandas as pd
from torch import Tensor

from abq_core.analysis.block_frames import ComparedBlock, Frames, linear_frames, output_frames
from abq_core.analysis.diagnostics import joined_frames
from abq_core.analysis.lens_pass import LensPass
from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.block_inputs import capture_block_inputs
from abq_core.events import Message, OnEvent, ignore
from abq_core.imports.blocks import ImportedPart, stored_part
from abq_core.imports.model import imported_block, streamed_import
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.precision import FULL

LENS = "imported"


def diagnose_import(
    base: LoadedModel, store: CheckpointStore, ids: Tensor, on_event: OnEvent = ignore, prefix: int = 0
) -> Frames:
    """Compare a finished import with its base model.

    ids: (segments, tokens) int64.  prefix: as for `diagnose`, whose frames these are, with the lens "imported". Levels
    are the codes of the file in steps of each group's scale; formats without such codes have none.
    Raises MissingBlockError.
    """
    parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    inputs = capture_block_inputs(base.model, ids)
    hidden = {"full": inputs.hidden, LENS: capture_block_inputs(streamed_import(base, store).model, ids).hidden}
    for index in range(len(blocks_of(base.model))):
        part = stored_part(store, index)
        with base.block(index) as full:
            modules = {"full": full, LENS: imported_block(full, part, index)}
            passes = {
                lens: LensPass.run(modules[lens], hidden[lens], inputs.arguments[index], prefix) for lens in modules
            }
            artifacts = {LENS: BlockArtifact({}, part.parameters, {})}
            block = ComparedBlock(base, index, FULL, artifacts, modules, passes, prefix)
            for frames in (output_frames(block), linear_frames(block)):
                for name, frame in frames.items():
                    parts[name].append(frame)
            parts["levels"] += _levels(index, part)
            hidden = {lens: lens_pass.output for lens, lens_pass in passes.items()}
        del full, modules, passes, block
        on_event(Message(f"Measured the distributions of block {index}."))
    return joined_frames(parts, base, ids)


def _levels(index: int, part: ImportedPart) -> list[pd.DataFrame]:
    return [
        pd.DataFrame(
            {"block": index, "tensor": name, "lens": LENS, "level": values.double().numpy(), "count": counts.numpy()}
        )
        for name, (values, counts) in part.levels.items()
    ]
