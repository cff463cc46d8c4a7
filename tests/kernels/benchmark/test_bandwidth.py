"""The limits of a one-token product."""

from kernels.benchmark.bandwidth import issue_limit, read_bandwidth


def test_read_bandwidth_is_plausible() -> None:
    assert 0.1 < read_bandwidth(1) < 2000


def test_issue_limit_is_plausible() -> None:
    assert 0.1 < issue_limit() < 2000
