"""A mix beside the best uniform precision of its size: only runs that can be compared count."""

from typing import Any

import pytest

from abq_core.mix import MixedLinear, ModelPrecision, PrecisionMix
from abq_core.precision import Precision
from app.services.mix_checks import check_mixes

SAME = {
    "model": "builtin",
    "protocol": "windows",
    "data": "builtin",
    "split": "evaluation",
    "segments": 32,
    "seq_len": 512,
}
MIX = PrecisionMix((MixedLinear(0, "q", Precision.parse("W2A8"), 10), MixedLinear(0, "k", Precision.parse("W4A8"), 10)))


def run(
    name: str, precision: ModelPrecision, kl: float, size: int, **other: Any
) -> tuple[dict[str, Any], ModelPrecision]:
    """A row of `runs_frame` with its precision."""
    row = {"run": name, "precision": str(precision), "method": "abq", "kl_mean": kl, "model_bytes": size, **SAME}
    return {**row, "bits_per_parameter": size / 100, **other}, precision


def uniform(text: str, kl: float, size: int, **other: Any) -> tuple[dict[str, Any], ModelPrecision]:
    """A run with one precision."""
    return run(text, Precision.parse(text), kl, size, **other)


@pytest.mark.parametrize(("kl", "kept"), [(0.2, True), (0.4, False)])
def test_the_lower_kl_of_the_same_size_wins(kl: float, kept: bool) -> None:
    rows = [uniform("W2A8", 0.9, 200), run("mix", MIX, kl, 300), uniform("W3A8", 0.3, 300), uniform("W4A8", 0.1, 301)]
    (check,) = check_mixes(rows)
    assert check.kept is kept and check.uniform is not None and check.uniform["precision"] == "W3A8"
    assert check.verdict.startswith("Keep the mix" if kept else "Take W3A8")
    assert f"{kl:.4f} nats against 0.3000 nats" in check.verdict
    assert check.to_dict()["uniform_kl_mean"] == 0.3 and check.to_dict()["kept"] is kept


def test_a_uniform_precision_with_fewer_bit_operations_counts() -> None:
    (check,) = check_mixes([run("mix", MIX, 0.2, 300), uniform("W3A4", 0.1, 300)])
    assert check.kept is False and check.verdict.startswith("Take W3A4")


@pytest.mark.parametrize(
    "other",
    [
        uniform("W3A8", 0.1, 300, method="rtn"),
        uniform("W3A8", 0.1, 300, data="notes.txt"),
        uniform("W3A8", 0.1, 300, segments=8),
        uniform("W3A8", 0.1, 300, split="whole"),
        uniform("W3A16", 0.1, 300),
        uniform("W3A8kv4", 0.1, 300),
        uniform("W4A8", 0.1, 301),
        run("another mix", MIX.with_tables(8, 8), 0.1, 300),
    ],
)
def test_other_runs_are_not_compared(other: tuple[dict[str, Any], ModelPrecision]) -> None:
    check = check_mixes([run("mix", MIX, 0.2, 300), other])[0]
    assert check.uniform is None and check.kept is None
    assert check.verdict.startswith("Not compared: no uniform precision of at most 3 bits per parameter")
    assert check.to_dict()["uniform_precision"] is None
