"""Run the attack and print which rows held: `make attack`, or `python tests/attack [--short] [--against COMMIT]`.

With --against the same tests run in a worktree of an older commit. There every row should fail: that shows that its
test can see the attack. Rows whose tests cannot be collected on that commit are listed as such.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rows import ROWS

ROOT = Path(__file__).parents[2]


@dataclass
class Result:
    """What the tests of one row found. tried: hostile inputs."""

    tried: int = 0
    tests: int = 0
    failed: int = 0
    uncollected: int = 0

    @property
    def held(self) -> bool:
        """Whether every test of the row ran and passed."""
        return self.tests > 0 and self.failed == 0 and self.uncollected == 0

    def __str__(self) -> str:
        if self.uncollected:
            return "not collected"
        if not self.tests:
            return "no test"
        return "yes" if self.held else f"NO ({self.failed} of {self.tests} tests failed)"


def main() -> int:
    """Run the tests and print the table. Returns 1 if a row did not hold (with --against: if one held)."""
    parser = argparse.ArgumentParser(prog="python tests/attack", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--against", metavar="COMMIT", help="run the tests on this older commit instead")
    parser.add_argument("--short", action="store_true", help="leave out tests that wait for jobs and for time-outs")
    options, pytest_options = parser.parse_known_args()
    pytest_options = ["-m", "attack and not slow" if options.short else "attack", *pytest_options]
    if options.against is None:
        results = run_tests(ROOT, pytest_options)
        wrong = [row for row in ROWS if not results[row].held]
    else:
        with worktree(options.against) as root:
            results = run_tests(root, pytest_options)
        wrong = [row for row in ROWS if results[row].held or not results[row].failed]
    print_table(results)
    if wrong:
        print(f"{'Did not hold' if options.against is None else 'Not seen to fail'}: {', '.join(map(str, wrong))}.")
    return 1 if wrong else 0


def run_tests(root: Path, pytest_options: list[str]) -> dict[int, Result]:
    """Run tests/attack of the checkout `root`. Returns the result of each row."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "attack.xml"
        words = [
            "-q",
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
        ]
        subprocess.run([sys.executable, "-m", "pytest", "tests/attack", *words, *pytest_options], cwd=root, check=False)
        return read_report(report)


def read_report(report: Path) -> dict[int, Result]:
    """The result of each row, from pytest's JUnit XML file."""
    results = {row: Result() for row in ROWS}
    for case in ElementTree.parse(report).iter("testcase") if report.is_file() else ():
        properties = {one.get("name"): one.get("value", "") for one in case.iter("property")}
        failed = any(case.find(tag) is not None for tag in ("failure", "error"))
        if "row" not in properties:  # pytest could not collect the file
            named = re.search(r"test_row_(\d+)", f"{case.get('classname')} {case.get('name')}")
            if named and failed:
                results[int(named[1])].uncollected += 1
        elif case.find("skipped") is None:
            result = results[int(properties["row"])]
            result.tests += 1
            result.failed += failed
            result.tried += int(properties.get("tried", 1))
    return results


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A temporary git worktree of `commit` with the attack of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "old"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", root, commit], cwd=ROOT, check=True)
        try:
            for name in ("tests/attack", "tests/cases"):
                shutil.copytree(ROOT / name, root / name, dirs_exist_ok=True)
            shutil.copy(ROOT / "pyproject.toml", root)  # the settings of pytest
            yield root
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", root], cwd=ROOT, check=True)


def print_table(results: dict[int, Result]) -> None:
    """Print one line per row."""
    width = max(map(len, ROWS.values()))
    print(f"\n{'row':>3}  {'what':<{width}}  {'tried':>5}  held")
    for row, what in ROWS.items():
        print(f"{row:>3}  {what:<{width}}  {results[row].tried:>5}  {results[row]}")


if __name__ == "__main__":
    sys.exit(main())
