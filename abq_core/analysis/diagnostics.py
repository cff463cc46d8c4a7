"""Diagnostics of a finished calibration: what it changed, block by block.

Three lenses walk through the model together: full precision, rounding alone, and the calibrated ("corrected") blocks.
"""

from collections import defaultdict
from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from abq_core.analysis.block_frames import (
    ATTENTION_TOKENS,
    ComparedBlock,
    Frames,
    learned_frames,
    linear_frames,
    output_frames,
)
from abq_core.analysis.lens_pass import LensPass
from abq_core.calibration.artifacts import CheckpointStore
from abq_core.calibration.block_inputs import capture_block_inputs, quantized_embeddings
from abq_core.calibration.quantized_block import quantized_block, rounded_artifact, stored_artifact
from abq_core.events import Message, OnEvent, ignore
from abq_core.mix import ModelPrecision
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.models.tokenizer import decode

DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN = 8, 256  # of a run's calibration, at most
_NAMES = ("histograms", "levels", "blocks", "linears", "outliers", "balance", "clipping", "attention")
_EMPTY = {
    "levels": pd.DataFrame(columns=["block", "tensor", "lens", "level", "count"]),
    "balance": pd.DataFrame(columns=["block", "pair", "channel", "value"]),
    "clipping": pd.DataFrame(columns=["block", "tensor", "row", "low", "high"]),
}


def diagnose(
    base: LoadedModel,
    precision: ModelPrecision,
    store: CheckpointStore,
    ids: Tensor,
    on_event: OnEvent = ignore,
    prefix: int = 0,
) -> Frames:
    """Compare a finished run with full precision and with rounding alone.

    ids: (segments, tokens) int64.  prefix: tokens in front of the text of each segment, such as BOS. Only the attention
    frame shows them; distances and histograms do not count them.

    Returns the frames of a run's diagnostics: histograms, levels, blocks, linears, outliers, balance, clipping,
    attention, attention_tokens. The corrected lens uses its own coordinates: activations divided by the balance values
    s, weights multiplied by s, and both after the Hadamard transform if the linear has one. Raises MissingBlockError if
    the run is not finished.
    """
    parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    inputs = capture_block_inputs(base.model, ids)
    quantized = quantized_embeddings(base.model, ids, precision)
    hidden = {"full": inputs.hidden}
    hidden |= dict.fromkeys(("rounded", "corrected"), inputs.hidden if quantized is None else quantized)
    for index in range(len(blocks_of(base.model))):
        with base.block(index) as full:
            artifacts = {
                "rounded": rounded_artifact(base, index, precision),
                "corrected": stored_artifact(store, index),
            }
            modules = {"full": full} | {
                lens: quantized_block(full, artifact, precision, index, "simulated")
                for lens, artifact in artifacts.items()
            }
            arguments = inputs.arguments[index]
            passes = {lens: LensPass.run(modules[lens], hidden[lens], arguments, prefix) for lens in modules}
            block = ComparedBlock(base, index, precision, artifacts, modules, passes, prefix)
            for frames in (output_frames(block), linear_frames(block), learned_frames(index, artifacts["corrected"])):
                for name, frame in frames.items():
                    parts[name].append(frame)
            hidden = {lens: lens_pass.output for lens, lens_pass in passes.items()}
        del full, modules, passes, block  # float32 weights, before those of the next block are made
        on_event(Message(f"Measured the distributions of block {index}."))
    return joined_frames(parts, base, ids)


def joined_frames(parts: Mapping[str, list[pd.DataFrame]], base: LoadedModel, ids: Tensor) -> Frames:
    """The frames of a run from those of its blocks, with the tokens of the attention frame."""
    joined = {name: pd.concat(parts[name], ignore_index=True) if parts.get(name) else _EMPTY[name] for name in _NAMES}
    return joined | {"attention_tokens": _token_frame(base, ids)}


def _token_frame(base: LoadedModel, ids: Tensor) -> pd.DataFrame:
    """The tokens of the attention frame: columns position and text."""
    shown = ids[0, :ATTENTION_TOKENS].tolist()
    return pd.DataFrame({"position": range(len(shown)), "text": [decode(base.tokenizer, [t]) for t in shown]})
