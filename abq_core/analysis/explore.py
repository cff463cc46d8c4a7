"""What a precision does to a model's weights, before any calibration."""

import dataclasses

import pandas as pd

from abq_core.analysis.histograms import channel_peaks, largest_channels, level_counts, paired_histogram, snr_db
from abq_core.mix import ModelPrecision
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import quantize_weight


def explore(base: LoadedModel, precision: ModelPrecision) -> dict[str, pd.DataFrame]:
    """Round every linear of every block to nearest. Frames:

    histograms: block, tensor, kind ("weight"), lens ("full" | "rounded"), left, right, count.
    levels: block, tensor, lens, level, count; lens "rounded" has the 2^p plain levels, "balanced" the 2^p + 1 of the
    same bits with a star (Bit Balance Strategy).
    linears: block, tensor, lens ("rounded"), weight_snr_db, rows, columns.
    outliers: block, tensor, channel, value: the input channels with the largest |w|.
    Where weights are not quantized (W16) levels is empty and the rounded lens equals the full one.
    """
    histograms, levels, linears, outliers = [], [], [], []
    for index, block in enumerate(blocks_of(base.model)):
        for name, linear in linears_of(block).items():
            labels = {"block": index, "tensor": name}
            weight = linear.weight.detach().float()
            rounded, own = weight, precision.of_linear(index, name)
            if own.quantizes_weights:
                rounded = quantize_weight(weight, own).dequantize()
                for lens, starred in (("rounded", False), ("balanced", True)):
                    twin = quantize_weight(weight, dataclasses.replace(own, balanced=starred))
                    levels.append(level_counts(twin, {**labels, "lens": lens}))
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
