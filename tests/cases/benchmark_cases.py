"""Conditions and results for tests of the benchmarks."""

import math
from pathlib import Path
from typing import Any

from conditions import Conditions

CONDITIONS = Conditions(
    data="builtin",
    segments=2,
    seq_len=32,
    epochs=1,
    end_to_end_segments=8,
    steps=1,
    eval_segments=3,
    eval_seq_len=32,
    seed=0,
    peer_python=Path("/nowhere/python"),
)


def figures(losses: list[float], **more: Any) -> dict[str, Any]:
    """The results of a row as `measure` returns them, with invented losses (nats per token)."""
    mean = sum(losses) / len(losses)
    return {
        "perplexity": math.exp(mean),
        "perplexity_stderr": 0.5,
        "kl_mean": 0.25,
        "same_top": 0.75,
        "stored_bits": 2,
        "weight_bytes": 1000,
        "tokens": 96,
        "seconds": 12.0,
        "cpu_seconds": 11.0,
        "peak_mib": 400,
        "python": "3.11",
        "torch": "2",
        "transformers": "5",
        "segment_losses": losses,
        **more,
    }
