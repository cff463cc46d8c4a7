"""Error and use of levels of one linear in every format of `quantization.level_sets`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from abq_core.analysis.histograms import snr_db
from abq_core.quantization.level_sets import Format

MOST_WEIGHTS = 1 << 18  # of a linear that are rounded: evenly spaced rows
SCALES = {"largest": False, "least error": True}  # how a group finds its scale: its largest weight, or a search


def level_set_frames(
    weight: Tensor, formats: Sequence[Format], group_size: int | None = None
) -> dict[str, pd.DataFrame]:
    """Round a weight (rows, k) float in every format, with both scales.

    Returns formats: format, family, fast, levels, scale ("largest" | "least error"), bits, snr_db, rows (that were
    rounded); and occupancy: format, scale, level, count.
    """
    at, sample = evenly_spaced_rows(weight)
    errors, occupancy = [], []
    for one in formats:
        for scale, search in SCALES.items():
            rounded = one.round(sample, group_size, search)
            labels = {"format": one.name, "scale": scale}
            errors.append(
                {
                    **labels,
                    "family": one.family,
                    "fast": one.is_fast,
                    "levels": one.levels,
                    "bits": one.stored_bits(weight.shape[1], group_size),
                    "snr_db": snr_db(sample, rounded.values),
                    "rows": len(at),
                }
            )
            levels, counts = torch.unique(rounded.levels, return_counts=True)
            occupancy.append(pd.DataFrame({**labels, "level": levels.double().numpy(), "count": counts.numpy()}))
    return {"formats": pd.DataFrame(errors), "occupancy": pd.concat(occupancy, ignore_index=True)}


def evenly_spaced_rows(weight: Tensor) -> tuple[NDArray[np.int64], Tensor]:
    """Rows of a weight (rows, k) float, at most MOST_WEIGHTS values: their numbers, and the rows in float32."""
    rows, k = weight.shape
    count = max(1, min(rows, MOST_WEIGHTS // k))
    at = np.linspace(0, rows - 1, count).round().astype(np.int64)
    return at, weight[at].float()
