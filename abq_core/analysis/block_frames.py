"""Data frames that compare three versions ("lenses") of a block.

The lenses are "full" (full precision), "rounded", and "corrected" (by calibration); or "full" and "imported".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

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
from abq_core.analysis.lens_pass import LensPass
from abq_core.calibration.artifacts import BlockArtifact
from abq_core.calibration.compact_block import unrounded_parameters
from abq_core.calibration.losses import attention_kl, mean_cosine
from abq_core.mix import ModelPrecision
from abq_core.models.loading import LoadedModel
from abq_core.quantization.hadamard import hadamard
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import fake_quant_activation

ATTENTION_TOKENS = 48  # of the first segment, in the attention frame
Frames = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class ComparedBlock:
    """One block through all lenses; `artifacts` has all but "full".

    prefix: tokens in front of the text of each segment, which no distance and no histogram counts.
    """

    base: LoadedModel
    index: int
    precision: ModelPrecision
    artifacts: Mapping[str, BlockArtifact]
    modules: Mapping[str, nn.Module]
    passes: Mapping[str, LensPass]
    prefix: int = 0


def output_frames(block: ComparedBlock) -> Frames:
    """Compare outputs and attention maps: frames "blocks", "histograms" and "attention"."""
    outputs = {lens: lens_pass.output[:, block.prefix :] for lens, lens_pass in block.passes.items()}
    maps = {lens: lens_pass.maps[:, :, block.prefix :] for lens, lens_pass in block.passes.items()}
    full = outputs["full"]
    rows = []
    for lens in block.artifacts:
        other = outputs[lens]
        rows.append(
            {
                "block": block.index,
                "lens": lens,
                "cosine": float(mean_cosine(other, full)),
                "mse": float((other - full).pow(2).mean()),
                "snr_db": snr_db(full, other),
                "kl_attention": float(attention_kl(maps["full"], maps[lens])),
            }
        )
    return {
        "blocks": pd.DataFrame(rows),
        "histograms": paired_histogram(outputs, {"block": block.index, "tensor": "block", "kind": "output"}),
        "attention": _attention_frame(block.index, {lens: p.maps[0] for lens, p in block.passes.items()}),
    }


def _attention_frame(index: int, maps: Mapping[str, Tensor]) -> pd.DataFrame:
    """Attention probabilities of the first tokens of one segment, without the masked positions."""
    heads, queries, keys = (min(n, ATTENTION_TOKENS) if d else n for d, n in enumerate(maps["full"].shape))
    head, query, key = torch.meshgrid(torch.arange(heads), torch.arange(queries), torch.arange(keys), indexing="ij")
    visible = key <= query
    columns = {lens: m[:, :queries, :keys][visible].float().numpy() for lens, m in maps.items()}
    positions = {"head": head[visible].numpy(), "query": query[visible].numpy(), "key": key[visible].numpy()}
    return pd.DataFrame({"block": index, **positions, **columns})


def linear_frames(block: ComparedBlock) -> Frames:
    """Compare every linear: frames "histograms", "levels", "linears" and "outliers".

    A linear without input rows, such as an expert without tokens, has weights only.
    """
    unrounded: dict[str, dict[str, Tensor]] = {
        lens: unrounded_parameters(block.base, block.modules["full"], artifact)
        if lens == "corrected"
        else dict(block.modules["full"].named_parameters())
        for lens, artifact in block.artifacts.items()
    }
    weights = {
        lens: {name: linear.weight.detach().float() for name, linear in linears_of(module).items()}
        for lens, module in block.modules.items()
    }
    frames: dict[str, list[pd.DataFrame]] = {"histograms": [], "levels": [], "outliers": []}
    rows: list[dict[str, object]] = []
    for name in weights["full"]:
        labels = {"block": block.index, "tensor": name}
        by_lens = {lens: weights[lens][name] for lens in weights}
        frames["histograms"].append(paired_histogram(by_lens, {**labels, "kind": "weight"}))
        inputs = _inputs(block, name)
        quantized = {**inputs, **{lens: _quantized_input(block, name, lens, x) for lens, x in inputs.items()}}
        for lens in block.artifacts:
            artifact = block.artifacts[lens]
            if name in artifact.weights:
                frames["levels"].append(level_counts(artifact.weights[name], {**labels, "lens": lens}))
            has_input = lens in inputs
            rows.append(
                {
                    **labels,
                    "lens": lens,
                    "weight_snr_db": snr_db(unrounded[lens][f"{name}.weight"], weights[lens][name]),
                    "activation_snr_db": snr_db(inputs[lens], quantized[lens]) if has_input else math.nan,
                    "outlier_ratio": outlier_ratio(channel_peaks(inputs[lens])) if has_input else math.nan,
                }
            )
        if inputs:
            frames["histograms"].append(paired_histogram(quantized, {**labels, "kind": "activation"}))
        if "full" in inputs:
            frames["outliers"].append(largest_channels(channel_peaks(inputs["full"]), labels))
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items() if parts}
    return {**joined, "linears": pd.DataFrame(rows)}


def _inputs(block: ComparedBlock, name: str) -> dict[str, Tensor]:
    """The sampled inputs of a linear by lens.

    Those of the corrected lens after the Hadamard transform.
    """
    inputs = {lens: p.samples[name] for lens, p in block.passes.items() if name in p.samples}
    if "corrected" in inputs:
        inputs["corrected"] = hadamard(inputs["corrected"], block.artifacts["corrected"].hadamards.get(name, 1))
    return inputs


def _quantized_input(block: ComparedBlock, name: str, lens: str, x: Tensor) -> Tensor:
    """The input as the lens quantizes it: unchanged for full precision and 16-bit activations."""
    precision = block.precision.of_linear(block.index, name)
    if lens == "full" or not precision.quantizes_activations:
        return x
    return fake_quant_activation(x, precision.act_bits, block.artifacts[lens].act_clips.get(name, 1.0))


def learned_frames(index: int, artifact: BlockArtifact) -> Frames:
    """The learned values of a block: frames "balance" and "clipping", if they have rows."""
    balance, clipping = [], []
    for name, values in artifact.learned.items():
        kind, _, rest = name.partition(".")
        if kind == "balance":
            channels = range(len(values))
            balance.append(pd.DataFrame({"block": index, "pair": rest, "channel": channels, "value": values.numpy()}))
        elif kind == "clip_low":
            high = artifact.learned[f"clip_high.{rest}"].flatten()
            low = values.flatten()
            labels = {"block": index, "tensor": rest, "row": range(len(low))}
            clipping.append(pd.DataFrame({**labels, "low": low.numpy(), "high": high.numpy()}))
    frames = {"balance": balance, "clipping": clipping}
    return {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items() if parts}
