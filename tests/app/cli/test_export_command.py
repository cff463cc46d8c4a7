"""abq export: one answer, one line for a user's mistake, and nothing outside the target."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.main import main
from app.services import Services
from storage.jobs import Job

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Export the finished run with these words; returns exit code, stdout and stderr."""
    monkeypatch.setenv("ABQ_DATA_DIR", str(finished[0].settings.data_dir))

    def export(*words: str) -> tuple[int, str, str]:
        code = main(["export", finished[1].run_id, *words])
        return code, *capsys.readouterr()

    return export


def test_an_export_answers_with_its_proof(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--to", "compressed-tensors", "--out", str(tmp_path / "out"), "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer.keys() == {
        "run",
        "path",
        "format",
        "bytes",
        "bits_per_parameter",
        "dropped",
        "proof",
        "more_proofs",
        "pushed",
    }
    assert (answer["path"], answer["format"]) == (str(tmp_path / "out"), "compressed-tensors")
    files = [file for file in (tmp_path / "out").iterdir()]
    assert answer["bytes"] == sum(file.stat().st_size for file in files)
    assert answer["proof"]["checked"] or "not installed" in answer["proof"]["reason"]
    assert json.loads((tmp_path / "out" / "proof.json").read_text("utf-8")) == [
        answer["proof"],
        *answer["more_proofs"],
    ]


def test_the_card_tells_the_run_and_no_path_of_this_machine(
    run: Run, finished: tuple[Services, Job], tmp_path: Path
) -> None:
    _, out, _ = run("--to", "compressed-tensors", "--out", str(tmp_path / "out"))
    assert "bits per parameter" in out
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    model = Path(str(finished[1].spec["model"]))
    assert model.name in card and "W4A4" in card and finished[1].run_id in card and "perplexity" in card
    assert str(model.parent) not in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onnx"], "'onnx' is not a format: use one of compressed-tensors"),
        (["--to", "compressed-tensors", "--activations", "none"], "--activations is 'none': use run or symmetric"),
    ],
)
def test_a_mistake_is_one_line(run: Run, tmp_path: Path, words: list[str], said: str) -> None:
    code, out, err = run("--out", str(tmp_path / "out"), *words)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    code, _, err = run("--to", "compressed-tensors", "--out", str(tmp_path / "out"))
    assert code == 2 and "already exists and is not empty" in err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["kept"]
