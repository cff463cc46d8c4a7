"""The attention heads of a block in numbers: distance to full precision, entropy, and the attention sink."""

import numpy as np
import pandas as pd

COMPARED = ("rounded", "corrected", "imported")  # lenses that a run may have besides full precision


def attention_heads(attention: pd.DataFrame) -> pd.DataFrame:
    """One row per block and head.

    attention: block, head, query, key, full, and rounded with corrected, or imported, as in a run's diagnostics.
    Columns: kl_<lens>: KL(full || lens) in nats, mean over queries.  entropy_<lens>: in nats, mean over queries.
    sink: the key of the first half that later queries attend to most in full precision.  sink_<lens>: its mean
    probability over later queries, nan for a map of one token.
    """
    lenses = ["full", *(lens for lens in COMPARED if lens in attention)]
    rows = [
        {"block": block, "head": head, **_numbers({lens: _map(one, lens) for lens in lenses})}
        for (block, head), one in attention.groupby(["block", "head"])
    ]
    names = [
        f"{name}_{lens}" for name in ("kl", "entropy", "sink") for lens in lenses if (name, lens) != ("kl", "full")
    ]
    return pd.DataFrame(rows, columns=["block", "head", "sink", *names])


def compared_lens(attention: pd.DataFrame, wanted: str) -> str:
    """The lens to compare with full precision: `wanted`, or the last one if this run has no such lens."""
    return wanted if wanted in attention else next(lens for lens in reversed(COMPARED) if lens in attention)


def _map(rows: pd.DataFrame, lens: str) -> np.ndarray:
    """(queries, keys) float64; masked positions are 0."""
    size = int(rows["query"].max()) + 1
    probabilities = np.zeros((size, size))
    probabilities[rows["query"].to_numpy(), rows["key"].to_numpy()] = rows[lens].to_numpy(dtype=float)
    return probabilities


def _numbers(maps: dict[str, np.ndarray]) -> dict[str, float]:
    full = maps["full"]
    size = len(full)
    later = np.tri(size, k=-1)  # of each key, the queries after it
    received = (full * later).sum(0)[: max(1, size // 2)] / later.sum(0)[: max(1, size // 2)].clip(min=1)
    sink = int(received.argmax())
    numbers: dict[str, float] = {"sink": sink}
    for lens, probabilities in maps.items():
        numbers[f"entropy_{lens}"] = float(-_times_log(probabilities, probabilities).sum(1).mean())
        numbers[f"sink_{lens}"] = float(probabilities[sink + 1 :, sink].mean()) if sink + 1 < size else np.nan
        if lens != "full":
            divergence = _times_log(full, full) - _times_log(full, probabilities)
            numbers[f"kl_{lens}"] = float(divergence.sum(1).mean())
    return numbers


def _times_log(weights: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """weights * log(probabilities), 0 where the weight is 0."""
    logs = np.log(np.where(weights > 0, np.maximum(probabilities, np.finfo(np.float32).tiny), 1.0))
    return weights * logs
