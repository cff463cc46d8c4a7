"""Row 12: control characters of stored and named texts are shown escaped, on stdout and stderr."""

import re
import sqlite3
from collections.abc import Callable

import pytest
from attack_cases import Command, Commands, FinishedRun

pytestmark = pytest.mark.attack(row=12)

HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\u202ee\x08f\rg\x00h\x7f"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def assert_harmless(*texts: str) -> None:
    for text in texts:
        found = CONTROL.search(text)
        assert found is None, repr(text[max(0, found.start() - 60) : found.end() + 20])


def test_stored_texts_are_shown_escaped(
    abq: Command, abq_many: Commands, finished_run: FinishedRun, tried: Callable[[int], None]
) -> None:
    with sqlite3.connect(finished_run.data / "abq.sqlite3") as database:
        text = HOSTILE.replace("\x00", "")
        database.execute("UPDATE runs SET note = ?, model = model || ?", (text, text))
        database.execute("UPDATE jobs SET error = ?, message = ?", (text, text))
        database.execute("UPDATE job_log SET text = ?", (text,))
    database.close()
    commands = [
        ["runs", "list"], ["runs", "list", "--json"], ["runs", "show", finished_run.run], ["jobs", "list"],
        ["jobs", "show", finished_run.run], ["jobs", "show", finished_run.run, "--json"],
    ]  # fmt: skip
    answers = abq_many(*commands)
    for done in answers:
        assert done.returncode == 0, done.stderr
        assert_harmless(done.stdout, done.stderr)
    assert r"\x1b]0;title" in answers[4].stdout
    done = abq("runs", "delete", finished_run.run, input="n\n")
    assert_harmless(done.stdout, done.stderr)
    tried(len(commands) + 1)


def test_errors_quote_arguments_escaped(abq_many: Commands, tried: Callable[[int], None]) -> None:
    text = HOSTILE.replace("\x00", "")
    commands = [
        ["runs", "show", text], ["jobs", "show", text], ["calibrate", text, "--precision", "W4A4"], [text],
        ["calibrate", "builtin", "--precision", text], ["bench", "import", text], ["report", "--out", f"/{text}/x"],
        ["bench", "kernels", "--shapes", text], ["calibrate", "builtin", "--precision", "W4A4", "--switch", text],
    ]  # fmt: skip
    for done in abq_many(*commands):
        assert done.returncode == 2 and done.stdout == "", done.stderr
        assert_harmless(done.stderr)
    tried(len(commands))
