"""The check of sweeps on a cluster.

Real Ray nodes on this machine; the long form kills one during a sweep.
"""

from pathlib import Path

from promise import Outcome
from suite import run_tests

TESTS = "tests/app/jobs/test_ray_cluster.py"
SHORT = f"{TESTS}::test_nodes_of_another_version_are_refused_before_anything_is_queued"


def check_cluster(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "slow", SHORT if short else TESTS)
    return Outcome(str(suite), suite.held)
