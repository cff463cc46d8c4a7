"""Row 16: odd arguments, settings and output streams get a sentence and exit code 2."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attack_cases import ROOT, Command, Commands, FinishedRun, assert_sentence, environment

pytestmark = pytest.mark.attack(row=16)

NOBODY = "~nosuchuser/x"
LONG, HUGE = "9" * 5000, "9" * 30
CALIBRATE = ["calibrate", "builtin", "--precision", "W4A4"]
HOMES = [
    ["bench", "import", NOBODY], ["db", "backup", NOBODY], [*CALIBRATE, "--data", f"{NOBODY}.txt"],
    ["calibrate", NOBODY, "--precision", "W4A4"], ["calibrate", "builtin", "--precision", f"{NOBODY}.json"],
    ["sweep", NOBODY], ["auth", "list", "--file", NOBODY], ["app", "--auth", NOBODY],
    ["eval", "builtin", "--tasks", f"{NOBODY}.yaml"], ["allocate", "builtin", "--bits", "3", "--out", f"{NOBODY}.json"],
    ["generate", NOBODY, "--prompt", "a"], ["bench", "export", NOBODY],
]  # fmt: skip
NUMBERS = [
    *([*CALIBRATE, option, number] for option in ("--segments", "--seq-len", "--epochs", "--seed")
      for number in (LONG, HUGE)),
    ["calibrate", "builtin", "--precision", f"W{LONG}A8"], ["calibrate", "builtin", "--precision", f"W4A4g{LONG}"],
    ["calibrate", "builtin", "--precision", "W4A4", "--method", "abq+", "--end-to-end-segments", HUGE],
    *(["allocate", "builtin", option, number] for option in ("--bits", "--mib") for number in ("nan", "inf", LONG)),
    *(["generate", "builtin", "--prompt", "a", "--temperature", number] for number in ("nan", LONG)),
    ["generate", "builtin", "--prompt", "a", "--max-new-tokens", HUGE],
    ["generate", "builtin", "--prompt", "a", "--max-new-tokens", LONG],
    ["eval", "builtin", "--segments", LONG],  # more segments than the text has are not a mistake: all are read
    *(["eval", "builtin", "--seq-len", number] for number in (LONG, HUGE)),
    *(["bench", "kernels", "--shapes", shape] for shape in
      ("99999999x99999999", "999999x999999", f"{LONG}x1", "0x0", "-1x1")),
    ["bench", "kernels", "--shapes", "64x64", "--m", LONG],
    ["bench", "kernels", "--shapes", "64x64", "--m", "999999999"],
    ["bench", "kernels", "--shapes", "64x64", "--threads", LONG], ["bench", "decode", "--tokens", HUGE],
    ["app", "--port", LONG],
]  # fmt: skip


@pytest.mark.parametrize("commands", [HOMES, NUMBERS], ids=["homes", "numbers"])
def test_odd_arguments_get_a_sentence(
    commands: list[list[str]], abq_many: Commands, tried: Callable[[int], None]
) -> None:
    wrong = []
    for words, done in zip(commands, abq_many(*commands, memory=12 << 30, timeout=900), strict=True):
        try:
            assert_sentence(done)
        except AssertionError as error:
            wrong.append(f"{' '.join(words)[:100]}: {error}")
        assert len(done.stderr) < 3000
    assert not wrong, "\n".join(wrong)
    tried(len(commands))


def test_a_report_and_an_export_into_a_home_that_does_not_exist(abq_many: Commands, finished_run: FinishedRun) -> None:
    for done in abq_many(
        ["report", finished_run.run, "--out", NOBODY], ["runs", "export", finished_run.run, "--to", NOBODY]
    ):
        assert_sentence(done, "user that does not exist")


def test_arguments_that_are_no_text_get_a_sentence(abq: Command, abq_many: Commands) -> None:
    assert_sentence(abq("runs", "show", b"\xff"), "UTF-8")
    for done in abq_many(["calibrate", "\ud800", "--precision", "W4A4"], ["\udcff"]):
        assert_sentence(done, "UTF-8")


SETTINGS = [
    "ABQ_DATA_DIR=~nosuchuser",
    "ABQ_DATA_DIR=/dev/null/x",
    f"ABQ_DATA_DIR=/{'x' * 5000}",
    "ABQ_DATA_DIR=/tmp/\udcff",
    f"ABQ_THREADS={LONG}",
    "ABQ_THREADS=\N{SUPERSCRIPT TWO}",
    f"ABQ_DEVICE=cuda:{LONG}",
    "ABQ_DATABASE_URL=sqlite:///~nosuchuser/x.db",
    f"ABQ_DATABASE_URL=sqlite:////{'x' * 5000}",
]


def test_odd_settings_get_a_sentence(abq_many: Commands, tried: Callable[[int], None]) -> None:
    for setting, done in zip(SETTINGS, abq_many(*([one, "runs", "list"] for one in SETTINGS)), strict=True):
        assert done.returncode == 2, setting[:40]
        assert_sentence(done)
    tried(len(SETTINGS))


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["jobs", "list"]])
def test_an_output_that_cannot_be_written_gets_a_sentence(words: list[str], abq: Command) -> None:
    with open("/dev/full", "w") as full:
        assert_sentence(abq(*words, stdout=full))


@pytest.mark.parametrize(
    ("words", "closed"), [("--version", ">&-"), ("jobs list", "<&- >&-"), ("jobs list", ">&- 2>&-")]
)
def test_a_closed_stdout_gets_a_sentence_and_its_number_no_file(words: str, closed: str, data: Path) -> None:
    command = f"exec {sys.executable} -m app.cli {words} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment(data), stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    if "2>" not in closed:
        assert_sentence(subprocess.CompletedProcess([], done.returncode, "", done.stderr), "stdout")


def test_an_ascii_terminal_can_show_any_text(abq: Command, finished_run: FinishedRun) -> None:
    done = abq("runs", "list", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and finished_run.run in done.stdout
