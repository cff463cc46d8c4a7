"""Checks of the trust boundary: the project's own tests of requests, files, models and text, in their long form, with
what they counted, and a fuzzer that follows the readers' branches.
"""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from promise import Outcome

ROOT = Path(__file__).resolve().parents[2]
REFUSED_WITHIN_SECONDS = 2.0
MODELS = [
    f"tests/core/test_models.py::{name}"
    for name in (
        "test_a_config_that_names_code_is_refused",
        "test_a_pickle_is_refused_and_never_opened",
        "test_hostile_headers_are_refused_at_once",
        "test_damaged_headers_are_named",
    )
]


@dataclass(frozen=True)
class Suite:
    """How some tests ended. counts: what they recorded of themselves (`record_property`), summed by name."""

    passed: int
    other: list[str]  # those that failed, broke, or were skipped, which shows nothing
    slowest: float  # seconds of one test, without what it was prepared with
    counts: dict[str, int]

    @property
    def held(self) -> bool:
        return self.passed > 0 and not self.other

    def __str__(self) -> str:
        counted = [f"{count:,} {name}" for name, count in self.counts.items()]
        trouble = f"{len(self.other)} did not" + (f" ({self.other[0]} ...)" if self.other else "")
        return ", ".join([f"{self.passed} tests passed, {trouble}", *counted])


def run_tests(work: Path, marks: str, *targets: str) -> Suite:
    """pytest on these files or tests, in a process of its own."""
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


def check_other_sites(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "not slow", "tests/app/test_security_requests.py")
    return Outcome(str(suite), suite.held)


def check_files(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "not slow" if short else "slow or not slow", "tests/app/test_security_files.py")
    return Outcome(f"{suite}, 0 bytes of a file in an answer" if suite.held else str(suite), suite.held)


def check_models(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "not slow", *MODELS)
    return Outcome(
        f"{suite}, the longest {suite.slowest:.1f} s", suite.held and suite.slowest <= REFUSED_WITHIN_SECONDS
    )


def check_hostile_text(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "browser", "tests/browser/test_hostile_text.py")
    return Outcome(str(suite), suite.held)


def check_input(work: Path, short: bool) -> Outcome:
    """Made cases, then a fuzzer on each reader that sees raw input first."""
    suite = run_tests(work, "not slow" if short else "slow", "tests/core/test_model_fuzz.py")
    seconds = 10 if short else 300
    figures, held = [str(suite)], suite.held
    for reader in ("config", "precision"):
        tries, trouble = fuzz(work, reader, seconds)
        figures.append(f"atheris on the {reader} for {seconds} s: {tries:,} inputs, {trouble or 'no traceback'}")
        held = held and not trouble and tries > 0
    return Outcome("; ".join(figures), held)


def fuzz(work: Path, reader: str, seconds: int) -> tuple[int, str]:
    """How many inputs the fuzzer tried, and the error of the one that broke the reader, if any."""
    command = [sys.executable, str(Path(__file__).with_name("fuzz_readers.py")), reader, str(work / reader)]
    done = subprocess.run(
        [*command, str(seconds)], cwd=work, capture_output=True, text=True, errors="replace", check=False
    )
    said = done.stderr.splitlines()
    tries = [int(line.split()[1]) for line in said if line.startswith("stat::number_of_executed_units:")]
    broken = [line.strip() for line in said if "Error" in line or "Exception" in line]
    return (tries or [0])[-1], "" if done.returncode == 0 else (broken or said or ["it did not start"])[-1][:120]
