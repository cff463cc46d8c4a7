"""Tests of this project as a check.

How many passed, the duration of the longest, and what they counted.
"""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Suite:
    """The outcome of a pytest run.

    counts: values that the tests recorded (`record_property`), summed by name.
    """

    passed: int
    other: list[str]  # failed, errored, or skipped: a skipped test shows nothing
    slowest: float  # seconds of the longest test, without its fixtures
    counts: dict[str, int]

    @property
    def held(self) -> bool:
        return self.passed > 0 and not self.other

    def __str__(self) -> str:
        counted = [f"{count:,} {name}" for name, count in self.counts.items()]
        trouble = f"{len(self.other)} failed or skipped" + (f" ({self.other[0]} ...)" if self.other else "")
        return ", ".join([f"{self.passed} tests passed, {trouble}", *counted])


def run_tests(work: Path, marks: str, *targets: str) -> Suite:
    """Run pytest on these files or tests in a separate process."""
    report = work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", marks, "--junitxml", str(report)]
    options = ["-o", "junit_family=xunit1", "-o", "junit_duration_report=call"]
    subprocess.run([*command, *options, *targets], cwd=ROOT, capture_output=True, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [
        case.attrib["name"]
        for case in cases
        if any(case.find(end) is not None for end in ("failure", "error", "skipped"))
    ]
    counts = Counter[str]()
    for one in ElementTree.parse(report).iter("property"):
        counts[one.attrib["name"]] += int(one.attrib["value"])
    slowest = max((float(case.attrib["time"]) for case in cases), default=0.0)
    return Suite(len(cases) - len(bad), bad, slowest, dict(counts))
