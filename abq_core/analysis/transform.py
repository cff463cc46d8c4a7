"""Inputs and weights of one linear before and after the Hadamard transform, by block size, and its time here."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from abq_core.analysis.histograms import channel_peaks
from abq_core.analysis.level_sets import evenly_spaced_rows
from abq_core.precision import Precision
from abq_core.quantization.hadamard import hadamard
from abq_core.quantization.quant_linear import PackedLinear
from abq_core.quantization.quantizers import quantize_weight
from kernels.benchmark.timing import alternate, copies_beyond_cache
from kernels.dispatch import linear
from kernels.formats.activations import quantize_activations
from kernels.hadamard import transformed
from kernels.host.threads import thread_count

SMALLEST_BLOCK = 16
BITS = 4  # at which rounding is shown
NONE = 1  # the block size that stands for no transform
BUDGET_SECONDS = 0.3  # timing per block size and number of tokens
Frames = dict[str, pd.DataFrame]


class TransformTime(NamedTuple):
    """Median seconds for `tokens` tokens.

    threads: at most this many work.  product: of the packed product without a transform, with the weight read from
    memory.  blocks: of the transform, by block size.
    """

    tokens: int
    threads: int
    product: float
    blocks: Mapping[int, float]


def block_sizes(channels: int) -> list[int]:
    """The block sizes that are compared: powers of two from 16 to the largest that divides `channels`.

    Only that one if it is below 16; [1], no transform, for an odd number of channels.
    """
    largest = channels & -channels
    return [1 << i for i in range(min(SMALLEST_BLOCK, largest).bit_length() - 1, largest.bit_length())]


@torch.no_grad()
def transform_frames(weight: Tensor, inputs: Tensor, block: int, group_size: int | None = None) -> Frames:
    """Transform a weight (rows, k) float and tokens of its input (tokens, k) float32 with every block size.

    block: the size of the frames `channels` and `levels`.  group_size: of the weight's scales at BITS bits.  kind is
    "activation" or "weight"; of a large weight some rows are read (`evenly_spaced_rows`). Returns
    rows: kind, block (1: before), row (a token, or an output), kurtosis (3 for a normal distribution, NaN for a
    constant row), range (largest minus smallest value), snr_db (of rounding the row to BITS bits).
    channels: kind, block (1, and `block`), channel, value: the largest |x| of each channel.
    levels: kind, block (1, and `block`), level (steps of the row's own scale from zero), share of the values.
    """
    at, sample = evenly_spaced_rows(weight)
    precision = Precision(BITS, BITS, group_size=group_size)
    tokens = np.arange(len(inputs))
    rows, channels, levels = [], [], []
    for size in dict.fromkeys((NONE, *block_sizes(weight.shape[1]))):
        shown = size in (NONE, block)
        for kind, numbers, plain in (("activation", tokens, inputs), ("weight", at, sample)):
            labels = {"kind": kind, "block": size}
            x = hadamard(plain.float(), size)
            at_levels, rounded = _at_4_bits(x, kind, precision)
            rows.append(pd.DataFrame({**labels, "row": numbers, **_of_rows(x, rounded)}))
            if shown:
                peaks = channel_peaks(x).numpy()
                channels.append(pd.DataFrame({**labels, "channel": np.arange(len(peaks)), "value": peaks}))
                used, counts = np.unique(at_levels, return_counts=True)
                levels.append(pd.DataFrame({**labels, "level": used, "share": counts / at_levels.size}))
    frames = {"rows": rows, "channels": channels, "levels": levels}
    return {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}


def transform_times(weight: Tensor, precision: Precision, tokens: Sequence[int]) -> list[TransformTime]:
    """Time the transform with every block size against the packed product of this linear, in turn.

    weight: (rows, k) float32.  precision: must quantize weights.  tokens: the numbers of tokens. All threads of
    `thread_count` work, as they do in the engine.
    """
    packed = PackedLinear.pack(quantize_weight(weight, precision), precision, None).packed
    copies = [packed, *(packed.copy() for _ in range(1, copies_beyond_cache(packed.nbytes)))]
    sizes, threads, times = block_sizes(weight.shape[1]), thread_count(), []
    for count in tokens:
        x = np.random.default_rng(0).standard_normal((count, weight.shape[1]), np.float32)
        calls = [[partial(linear, x, one, precision.act_bits) for one in copies]]
        calls += [[partial(transformed, x, size)] for size in sizes]
        samples = alternate(calls, threads, BUDGET_SECONDS * len(calls))
        product, *others = (float(np.median(sample.cold)) for sample in samples)
        times.append(TransformTime(count, threads, product, dict(zip(sizes, others, strict=True))))
    return times


def _at_4_bits(x: Tensor, kind: str, precision: Precision) -> tuple[np.ndarray, Tensor]:
    """The integer levels (zero is 0) and the rounded values of x (rows, k) float32."""
    if kind == "weight":
        quantized = quantize_weight(x, precision)
        return quantized.levels().numpy(), quantized.dequantize()
    codes, scale, zero, _ = quantize_activations(x.numpy(), BITS)
    levels = codes - zero[:, None]
    return levels, torch.from_numpy(levels.astype(np.float32) * scale[:, None])


def _of_rows(x: Tensor, rounded: Tensor) -> dict[str, np.ndarray]:
    """Kurtosis, range and SNR of each row."""
    values = x.double().numpy()
    noise = ((values - rounded.double().numpy()) ** 2).sum(1)
    centred = values - values.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "kurtosis": (centred**4).mean(1) / (centred**2).mean(1) ** 2,
            "range": np.ptp(values, axis=1),
            "snr_db": 10 * np.log10((values**2).sum(1) / noise),
        }
