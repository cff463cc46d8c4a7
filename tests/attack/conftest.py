"""Fixtures of the attack: the command line as a process, a finished run, and the row of each test for the table."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from account_cases import write_accounts
from attack_cases import Command, Commands, FinishedRun, command_line, command_lines
from page_process import PageProcess, page_process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("attack")
        if marker is not None:
            item.user_properties.append(("row", marker.kwargs["row"]))


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[[int], None]:
    """Records how many hostile inputs a test tried; without a call it counts as one."""
    return lambda count: request.node.user_properties.append(("tried", count))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of `abq`."""
    return tmp_path / "data"


@pytest.fixture
def abq(data: Path) -> Command:
    """Runs the command line in a process: `abq("runs", "list").stdout`; see `command_line`."""
    return lambda *words, **options: command_line(data, *words, **options)


@pytest.fixture
def abq_many(data: Path) -> Commands:
    """Runs several command lines in one process; see `command_lines`."""
    return lambda *commands, **options: command_lines(data, commands, **options)


@pytest.fixture(scope="session")
def made_run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of the tiny LLaMA model made by the command line; use `finished_run` in tests."""
    folder = tmp_path_factory.mktemp("finished")
    text = folder / "text.txt"
    # Long enough for the evaluation of older commits, which fails on a short text (row 8).
    text.write_text("The module provides functions to read and write files, one line at a time. " * 1500, "utf-8")
    words = ["--precision", "W4A4", "--method", "rtn", "--data", str(text), "--segments", "2", "--seq-len", "32"]
    done = command_line(folder / "data", "calibrate", str(tiny_llama), *words, "--wait", "--json")
    assert done.returncode == 0, done.stderr
    return FinishedRun(folder / "data", json.loads(done.stdout)["run"], tiny_llama, text)


@pytest.fixture
def finished_run(made_run: FinishedRun, data: Path) -> FinishedRun:
    """A finished run in the data folder of `abq`, which the test may change."""
    shutil.copytree(made_run.data, data, symlinks=True)
    return made_run._replace(data=data)


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The password file of `page`, with the accounts ada and bob. A test that changes it restores it."""
    file = tmp_path_factory.mktemp("accounts") / "accounts"
    write_accounts(file, "ada", "bob")
    return file


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, accounts: Path) -> Iterator[PageProcess]:
    """`abq app` with a login, in a process that may open 256 files.

    Each file has its own, so that no row fails because of another one. Budgets of failed logins are by address, so each
    test guesses from an address of its own.
    """
    with page_process(tmp_path_factory.mktemp("page"), "--auth", str(accounts), descriptors=256) as served:
        yield served
