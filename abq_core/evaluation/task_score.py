"""The score of a zero-shot task, read from lm-eval's results."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abq_core.evaluation.task_errors import TaskError

_HEADLINES = ("acc", "exact_match", "acc_norm")  # the first of these that a task has is its headline


@dataclass(frozen=True)
class TaskScore:
    """The result of one task.

    metrics: by name, such as acc and acc_norm, 0 to 1.  stderr: standard errors of the metrics that have one.
    samples, of: questions scored, of how many.  shots: few-shot examples per question.  version: lm-eval's version of
    the task.  source: lm-eval's version, or the sha256 of a task file.
    """

    task: str
    metrics: Mapping[str, float]
    stderr: Mapping[str, float]
    samples: int
    of: int
    shots: int
    version: str
    source: str

    @property
    def headline(self) -> str:
        """The name of the task's main metric: accuracy if it has one."""
        return next((name for name in _HEADLINES if name in self.metrics), next(iter(self.metrics)))

    @classmethod
    def from_results(cls, name: str, source: str, results: Mapping[str, Any]) -> "TaskScore":
        """Read the results of `lm_eval.evaluator.evaluate`.

        Their keys are such as "acc,none" and "acc_stderr,none".

        Raises TaskError if they contain no finite number.
        """
        metrics: dict[str, float] = {}
        stderr: dict[str, float] = {}
        for key, value in results["results"][name].items():
            metric, comma, filter_name = key.partition(",")
            if not comma or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            values = stderr if metric.endswith("_stderr") else metrics
            suffix = "" if filter_name == "none" else f" ({filter_name})"
            values[metric.removesuffix("_stderr") + suffix] = float(value)
        if not metrics:
            raise TaskError(f"The task '{name}' returned no number. Its metric_list must fit its output_type.")
        counts = results["n-samples"][name]
        return cls(
            task=name,
            metrics=metrics,
            stderr=stderr,
            samples=int(counts["effective"]),
            of=int(counts["original"]),
            shots=int(results["n-shot"].get(name) or 0),
            version=str(results["versions"].get(name)),
            source=source,
        )
