"""Speedups of a measurement: which peers it is compared with."""

from kernels.measurement import baselines
from kernels.precision_names import weight_bits


def test_a_speedup_compares_with_weights_of_at_least_as_many_bits() -> None:
    peers = [("a", weight_bits("W2A8"), 3.0), ("a", 2, 2.0), ("a", weight_bits("W4A8"), 1.0)]
    peers.append(("b", weight_bits("BF16"), 9.0))
    assert baselines(weight_bits("W2A8"), peers) == {"a": 2.0, "b": 9.0}
    assert baselines(weight_bits("W2*A8"), peers) == {
        "a": 1.0,
        "b": 9.0,
    }  # two bits have four levels, a star needs five
    assert baselines(weight_bits("W3A8"), peers) == {"a": 1.0, "b": 9.0}
    assert baselines(weight_bits("W8A8"), peers) == {"b": 9.0}
