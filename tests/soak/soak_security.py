"""Checks of the trust boundary.

The long form of the tests of requests, files, models and text, and a fuzzer.
"""

import subprocess
import sys
from pathlib import Path

from promise import Outcome
from suite import run_tests

REFUSED_WITHIN_SECONDS = 2.0
MODELS = [
    "tests/abq_core/models/test_files.py::test_a_config_that_names_code_is_refused",
    "tests/abq_core/models/test_files.py::test_a_pickle_is_refused_and_never_opened",
    "tests/abq_core/models/test_safetensors_header.py::test_hostile_headers_are_refused_at_once",
    "tests/abq_core/models/test_safetensors_header.py::test_damaged_headers_are_named",
]


def check_other_sites(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "not slow", "tests/app/web/access/test_security.py")
    return Outcome(str(suite), suite.held)


def check_files(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "not slow" if short else "slow or not slow", "tests/app/web/test_file_leaks.py")
    return Outcome(f"{suite}, 0 bytes of a file in a response" if suite.held else str(suite), suite.held)


def check_models(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "not slow", *MODELS)
    return Outcome(f"{suite}, slowest {suite.slowest:.1f} s", suite.held and suite.slowest <= REFUSED_WITHIN_SECONDS)


def check_hostile_text(work: Path, short: bool) -> Outcome:
    suite = run_tests(work, "browser", "tests/browser/test_hostile_text.py")
    return Outcome(str(suite), suite.held)


def check_input(work: Path, short: bool) -> Outcome:
    """Generated cases for every reader."""
    suite = run_tests(work, "not slow" if short else "slow", "tests/abq_core/models/test_model_fuzz.py")
    return Outcome(str(suite), suite.held)


def check_fuzzed(reader: str, work: Path, short: bool) -> Outcome:
    """Coverage-guided fuzzing of a reader of raw input."""
    seconds = 10 if short else 300
    tries, trouble = fuzz(work, reader, seconds)
    return Outcome(
        f"atheris on the {reader} for {seconds} s: {tries:,} inputs, {trouble or 'no traceback'}",
        not trouble and tries > 0,
    )


def fuzz(work: Path, reader: str, seconds: int) -> tuple[int, str]:
    """Number of inputs tried, and the error of the one that broke the reader, if any."""
    command = [sys.executable, str(Path(__file__).with_name("fuzz_readers.py")), reader, str(work / reader)]
    done = subprocess.run(
        [*command, str(seconds)], cwd=work, capture_output=True, text=True, errors="replace", check=False
    )
    lines = done.stderr.splitlines()
    tries = [int(line.split()[1]) for line in lines if line.startswith("stat::number_of_executed_units:")]
    broken = [line.strip() for line in lines if "Error" in line or "Exception" in line]
    return (tries or [0])[-1], "" if done.returncode == 0 else (broken or lines or ["it did not start"])[-1][:120]
