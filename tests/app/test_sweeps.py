"""`abq sweep`: says what it would do, does it once, goes on where it stopped."""

import json
from pathlib import Path

import pytest
import yaml
from app_cases import SpecMaker, settings_in

from app.cli import main
from app.services import Explorer


@pytest.fixture
def explorer(folder: Path) -> Explorer:
    return Explorer.open(settings_in(folder / "data"))


@pytest.fixture
def grid(folder: Path, tiny_spec: SpecMaker) -> Path:
    return write(folder, tiny_spec)


def write(folder: Path, tiny_spec: SpecMaker, **changes: object) -> Path:
    spec = tiny_spec()
    asked = {
        "models": [spec.model],
        "precisions": ["W4A4", "W2*A8"],
        "methods": ["rtn", "omniquant"],
        "data": spec.data,
        "segments": 2,
        "seq_len": 32,
        "epochs": 1,
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(asked | changes))
    return path


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, object]]]:
    code = main(["sweep", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out)["sweep"] if out else [{"error": err}]


def test_a_dry_run_says_what_each_takes_and_queues_nothing(
    grid: Path, explorer: Explorer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = ask(capsys, str(grid), "--dry-run")
    assert code == 0 and [row["state"] for row in rows] == ["new"] * 4
    assert all(row["peak_memory_bytes"] > 0 and row["run_bytes"] > 0 and row["seconds"] > 0 for row in rows)
    assert not explorer.jobs.list()
    assert main(["sweep", str(grid), "--dry-run"]) == 0
    assert "4 of 4 calibrations would be queued" in capsys.readouterr().out


def test_a_sweep_is_done_once_and_goes_on_where_it_stopped(
    grid: Path, explorer: Explorer, tiny_spec: SpecMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    given_up = explorer.submit(tiny_spec("W4A4", "rtn", epochs=1))
    explorer.cancel(given_up.id)
    code, rows = ask(capsys, str(grid), "--wait")
    assert code == 0 and {row["state"] for row in rows} == {"succeeded"}
    assert rows[0]["run"] == given_up.run_id
    assert len(explorer.runs.list()) == 4
    code, again = ask(capsys, str(grid), "--wait")
    assert [row["run"] for row in again] == [row["run"] for row in rows]
    assert len(explorer.runs.list()) == 4
    code, more = ask(capsys, str(write(grid.parent, tiny_spec, precisions=["W4A4", "W3A8"])), "--dry-run")
    assert [row["state"] for row in more] == ["succeeded", "succeeded", "new", "new"]


def test_nothing_is_queued_where_one_cannot_run(
    folder: Path, explorer: Explorer, tiny_spec: SpecMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, tiny_spec, data=str(folder / "none.txt"))
    assert main(["sweep", str(path)]) == 2
    out, err = capsys.readouterr()
    assert not out and "none.txt" in err and err.count("\n") == 1
    assert not explorer.runs.list()
