"""What calibration did, block by block: three models walk side by side (full, rounded, corrected) and are compared."""

import math
from collections import defaultdict
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from abq_core.analysis.histograms import (
    channel_peaks,
    largest_channels,
    level_counts,
    outlier_ratio,
    paired_histogram,
    snr_db,
)
from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.balance import Balance
from abq_core.calibration.block_inputs import block_output, capture_block_inputs, linear_inputs
from abq_core.calibration.block_quantizer import before_rounding
from abq_core.calibration.losses import attention_kl, mean_cosine
from abq_core.calibration.quantized_block import quantized_block, rounded_artifact, stored_artifact
from abq_core.events import Message, OnEvent, ignore
from abq_core.mix import ModelPrecision
from abq_core.models.architectures import architecture_of, blocks_of
from abq_core.models.attention import attention_maps
from abq_core.models.head_layout import HeadLayout
from abq_core.models.loading import LoadedModel
from abq_core.quantization.hadamard import hadamard
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import fake_quant_activation

DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN = 8, 256  # of a run's calibration, at most
ATTENTION_TOKENS = 48
SAMPLED_TOKENS = 512  # tokens of each linear's input that are kept for its distribution
Frames = dict[str, pd.DataFrame]
_NAMES = ("histograms", "levels", "blocks", "linears", "outliers", "balance", "clipping", "attention")


def diagnose(
    base: LoadedModel, precision: ModelPrecision, store: CheckpointStore, ids: Tensor, on_event: OnEvent = ignore
) -> Frames:
    """Compare a finished run with full precision and with rounding alone on ids (segments, tokens) int64.

    Returns the frames of a run's diagnostics: histograms, levels, blocks, linears, outliers, balance, clipping,
    attention, attention_tokens. Everything of the corrected lens is in its own coordinates: activations divided by s,
    weights multiplied by s, and both transformed where a linear stands behind a Hadamard transform. Raises
    MissingBlockError where the run is not finished.
    """
    parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    inputs = capture_block_inputs(base.model, ids)
    hidden = dict.fromkeys(("full", "rounded", "corrected"), inputs.hidden)
    for index, block in enumerate(blocks_of(base.model)):
        artifacts = {
            "rounded": rounded_artifact(base, index, precision),
            "corrected": stored_artifact(store, index),
        }
        modules = {"full": block} | {
            lens: quantized_block(block, artifact, precision, index, "simulated")
            for lens, artifact in artifacts.items()
        }
        passes = {lens: _Pass.run(modules[lens], hidden[lens], inputs.arguments[index]) for lens in modules}
        hidden = {lens: done.output for lens, done in passes.items()}
        for name, frame in _compare_outputs(index, passes).items():
            parts[name].append(frame)
        for name, frame in _compare_linears(base, index, precision, artifacts, modules, passes).items():
            parts[name].append(frame)
        for name, frame in _learned(index, artifacts["corrected"]).items():
            parts[name].append(frame)
        on_event(Message(f"Distributions of block {index} are measured."))
    frames = {name: pd.concat(parts[name], ignore_index=True) if parts[name] else _EMPTY[name] for name in _NAMES}
    shown = ids[0, :ATTENTION_TOKENS].tolist()
    texts = [base.tokenizer.decode([token]) for token in shown]
    return frames | {"attention_tokens": pd.DataFrame({"position": range(len(shown)), "text": texts})}


class _Pass:
    """One lens through one block: output, attention maps (segments, heads, q, k), a sample of each linear's input."""

    def __init__(self, output: Tensor, maps: Tensor, samples: Mapping[str, Tensor]) -> None:
        self.output, self.maps, self.samples = output, maps, samples

    @classmethod
    @torch.no_grad()
    def run(cls, block: nn.Module, hidden: Tensor, arguments: dict[str, object]) -> "_Pass":
        samples: dict[str, list[Tensor]] = defaultdict(list)

        def take(name: str, rows: Tensor) -> None:
            if sum(len(kept) for kept in samples[name]) < SAMPLED_TOKENS:
                samples[name].append(rows.clone())

        with attention_maps(block) as maps, linear_inputs(block, take):
            output = torch.cat([block_output(block(h.unsqueeze(0), **arguments)) for h in hidden])
        return cls(output, torch.cat(maps), {name: torch.cat(rows)[:SAMPLED_TOKENS] for name, rows in samples.items()})


def _compare_outputs(index: int, passes: Mapping[str, _Pass]) -> Frames:
    """Block outputs and attention maps of each lens against full precision."""
    full = passes["full"]
    rows = []
    for lens in ("rounded", "corrected"):
        other = passes[lens]
        rows.append(
            {
                "block": index,
                "lens": lens,
                "cosine": float(mean_cosine(other.output, full.output)),
                "mse": float((other.output - full.output).pow(2).mean()),
                "snr_db": snr_db(full.output, other.output),
                "kl_attention": float(attention_kl(full.maps, other.maps)),
            }
        )
    outputs = {lens: done.output for lens, done in passes.items()}
    return {
        "blocks": pd.DataFrame(rows),
        "histograms": paired_histogram(outputs, {"block": index, "tensor": "block", "kind": "output"}),
        "attention": _attention_frame(index, {lens: done.maps[0] for lens, done in passes.items()}),
    }


def _attention_frame(index: int, maps: Mapping[str, Tensor]) -> pd.DataFrame:
    """Probabilities of the first tokens of one segment, visible positions only."""
    heads, queries, keys = (min(n, ATTENTION_TOKENS) if d else n for d, n in enumerate(maps["full"].shape))
    head, query, key = torch.meshgrid(torch.arange(heads), torch.arange(queries), torch.arange(keys), indexing="ij")
    seen = key <= query
    columns = {lens: m[:, :queries, :keys][seen].float().numpy() for lens, m in maps.items()}
    places = {"block": index, "head": head[seen].numpy(), "query": query[seen].numpy(), "key": key[seen].numpy()}
    return pd.DataFrame({**places, **columns})


def _compare_linears(
    base: LoadedModel,
    index: int,
    precision: ModelPrecision,
    artifacts: Mapping[str, BlockArtifact],
    modules: Mapping[str, nn.Module],
    passes: Mapping[str, _Pass],
) -> Frames:
    """Weights and input activations of every linear through the three lenses; no input where an expert saw no token."""
    histograms, levels, rows, outliers = [], [], [], []
    before_rounding: dict[str, dict[str, Tensor]] = {
        "rounded": dict(modules["full"].named_parameters()),
        "corrected": _balanced_parameters(base, index, artifacts["corrected"]),
    }
    weights = {lens: {n: m.weight.detach().float() for n, m in linears_of(b).items()} for lens, b in modules.items()}
    for name in weights["full"]:
        labels = {"block": index, "tensor": name}
        histograms.append(
            paired_histogram({lens: weights[lens][name] for lens in weights}, {**labels, "kind": "weight"})
        )
        inputs = {lens: done.samples[name] for lens, done in passes.items() if name in done.samples}
        if "corrected" in inputs:
            inputs["corrected"] = hadamard(inputs["corrected"], artifacts["corrected"].hadamards.get(name, 1))
        rounded_inputs = dict(inputs)
        for lens in ("rounded", "corrected"):
            if precision.quantizes_activations and lens in inputs:
                rounded_inputs[lens] = fake_quant_activation(
                    inputs[lens], precision.act_bits, artifacts[lens].act_clips.get(name, 1.0)
                )
            if name in artifacts[lens].weights:
                levels.append(level_counts(artifacts[lens].weights[name], {**labels, "lens": lens}))
            rows.append(
                {
                    **labels,
                    "lens": lens,
                    "weight_snr_db": snr_db(before_rounding[lens][f"{name}.weight"], weights[lens][name]),
                    "activation_snr_db": snr_db(inputs[lens], rounded_inputs[lens]) if lens in inputs else math.nan,
                    "outlier_ratio": outlier_ratio(channel_peaks(inputs[lens])) if lens in inputs else math.nan,
                }
            )
        if inputs:
            histograms.append(paired_histogram(rounded_inputs, {**labels, "kind": "activation"}))
        if "full" in inputs:
            outliers.append(largest_channels(channel_peaks(inputs["full"]), labels))
    frames = {"histograms": histograms, "linears": [pd.DataFrame(rows)], "outliers": outliers}
    if levels:
        frames["levels"] = levels
    return {name: pd.concat(frame, ignore_index=True) for name, frame in frames.items()}


@torch.no_grad()
def _balanced_parameters(base: LoadedModel, index: int, artifact: BlockArtifact) -> dict[str, Tensor]:
    """The block's parameters with the learned balance and compensation, not yet rounded."""
    architecture, block = architecture_of(base.model), blocks_of(base.model)[index]
    learned = artifact.learned
    values = {name.removeprefix("balance."): s for name, s in learned.items() if name.startswith("balance.")}
    compensation = None
    if "compensation_out" in learned:
        compensation = (learned["compensation_out"], learned["compensation_in"])
    balance = Balance(architecture, HeadLayout.of(base.model.config), block)
    parameters = {name: p.detach().float() for name, p in block.named_parameters()}
    return before_rounding(balance, parameters, values, compensation, artifact.hadamards)


def _learned(index: int, artifact: BlockArtifact) -> Frames:
    """Balance and clipping values of a block as rows."""
    balance, clipping = [], []
    for name, values in artifact.learned.items():
        kind, _, rest = name.partition(".")
        if kind == "balance":
            channels = range(len(values))
            balance.append(pd.DataFrame({"block": index, "pair": rest, "channel": channels, "value": values.numpy()}))
        elif kind == "clip_low":
            high = artifact.learned[f"clip_high.{rest}"].flatten()
            low = values.flatten()
            places = {"block": index, "tensor": rest, "row": range(len(low))}
            clipping.append(pd.DataFrame({**places, "low": low.numpy(), "high": high.numpy()}))
    frames = {}
    if balance:
        frames["balance"] = pd.concat(balance, ignore_index=True)
    if clipping:
        frames["clipping"] = pd.concat(clipping, ignore_index=True)
    return frames


_EMPTY = {
    "levels": pd.DataFrame(columns=["block", "tensor", "lens", "level", "count"]),
    "balance": pd.DataFrame(columns=["block", "pair", "channel", "value"]),
    "clipping": pd.DataFrame(columns=["block", "tensor", "row", "low", "high"]),
}
