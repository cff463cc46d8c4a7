"""Scores read from lm-eval's results."""

from typing import Any

import pytest

from abq_core.evaluation.task_errors import TaskError
from abq_core.evaluation.task_score import TaskScore


def results(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "results": {"t": values},
        "n-samples": {"t": {"effective": 3, "original": 8}},
        "n-shot": {"t": None},
        "versions": {"t": 2.0},
    }


def test_metrics_and_standard_errors_are_told_apart() -> None:
    values = {
        "alias": "t",
        "acc,none": 0.5,
        "acc_stderr,none": 0.1,
        "exact_match,strict": 0.25,
        "exact_match_stderr,strict": "N/A",
        "f1,none": float("nan"),
    }
    score = TaskScore.from_results("t", "lm-eval 0", results(values))
    assert score.metrics == {"acc": 0.5, "exact_match (strict)": 0.25}
    assert score.stderr == {"acc": 0.1}
    assert (score.headline, score.samples, score.of, score.shots) == ("acc", 3, 8, 0)
    assert (score.version, score.source) == ("2.0", "lm-eval 0")


def test_the_headline_is_accuracy_or_the_first_metric() -> None:
    for names, expected in ((("f1", "acc_norm"), "acc_norm"), (("acc_norm", "acc"), "acc"), (("f1", "mcc"), "f1")):
        values = {f"{name},none": 0.5 for name in names}
        assert TaskScore.from_results("t", "", results(values)).headline == expected


def test_results_without_a_number_are_named() -> None:
    with pytest.raises(TaskError, match="'t' returned no number"):
        TaskScore.from_results("t", "", results({"alias": "t", "acc,none": float("nan")}))
