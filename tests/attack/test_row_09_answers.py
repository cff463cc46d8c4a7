"""Row 9: declining a question and naming a run twice are no errors of the program."""

from pathlib import Path

import pytest
from attack_cases import Command, Commands, FinishedRun

pytestmark = pytest.mark.attack(row=9)


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_a_declined_delete_keeps_the_run(answer: str, abq: Command, finished_run: FinishedRun) -> None:
    done = abq("runs", "delete", finished_run.run, input=answer)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith("abq: Cancelled.") and "internal error" not in done.stderr
    assert abq("runs", "show", finished_run.run).returncode == 0


def test_a_run_that_is_named_twice_is_one(abq_many: Commands, finished_run: FinishedRun, tmp_path: Path) -> None:
    twice = [finished_run.run, finished_run.run]
    report, verify = abq_many(
        ["report", *twice, "--out", str(tmp_path / "report.html")], ["runs", "verify", *twice, "--json"]
    )
    assert report.returncode == 0, report.stderr
    assert verify.returncode == 0 and '"checked": 1' in verify.stdout
