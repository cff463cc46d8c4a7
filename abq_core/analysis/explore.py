"""The effect of a precision on a model's weights, before any calibration."""

import dataclasses

import pandas as pd

from abq_core.analysis.histograms import channel_peaks, largest_channels, level_counts, paired_histogram, snr_db
from abq_core.mix import ModelPrecision
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import quantize_weight


def explore(base: LoadedModel, precision: ModelPrecision) -> dict[str, pd.DataFrame]:
    """Round every linear of every block to nearest. Returns these frames:

    histograms: block, tensor, kind ("weight"), lens ("full" | "rounded"), left, right, count.
    levels: block, tensor, lens, level, count; lens "rounded" has 2^p levels, "balanced" has the 2^p + 1 levels of the
    Bit Balance Strategy with the same bits.
    linears: block, tensor, lens ("rounded"), weight_snr_db, rows, columns.
    outliers: block, tensor, channel, value: the input channels with the largest |w|.
    If weights are not quantized (W16), levels is empty and the rounded lens equals the full one.
    """
    histograms, levels, linears, outliers = [], [], [], []
    for index in range(len(blocks_of(base.model))):
        with base.block(index) as block:
            for name, linear in linears_of(block).items():
                labels = {"block": index, "tensor": name}
                weight = linear.weight.detach()
                rounded, linear_precision = weight, precision.of_linear(index, name)
                if linear_precision.quantizes_weights:
                    rounded = quantize_weight(weight, linear_precision).dequantize()
                    for lens, balanced in (("rounded", False), ("balanced", True)):
                        quantized = quantize_weight(weight, dataclasses.replace(linear_precision, balanced=balanced))
                        levels.append(level_counts(quantized, {**labels, "lens": lens}))
                histograms.append(paired_histogram({"full": weight, "rounded": rounded}, {**labels, "kind": "weight"}))
                rows, columns = weight.shape
                ratio = snr_db(weight, rounded)
                linears.append({**labels, "lens": "rounded", "weight_snr_db": ratio, "rows": rows, "columns": columns})
                outliers.append(largest_channels(channel_peaks(weight), labels))
    empty_levels = pd.DataFrame(columns=["block", "tensor", "lens", "level", "count"])
    return {
        "histograms": pd.concat(histograms, ignore_index=True),
        "levels": pd.concat(levels, ignore_index=True) if levels else empty_levels,
        "linears": pd.DataFrame(linears),
        "outliers": pd.concat(outliers, ignore_index=True),
    }
