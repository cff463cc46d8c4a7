"""A GGUF file as a person uses it: calibrate, evaluate, generate, compare, decode, report."""

import json
from pathlib import Path

import pytest
from attack_cases import assert_sentence
from inline_commands import InlineCommand, inline_commands

pytest.importorskip("gguf", reason="needs the extra gguf")

from family_cases import family_model
from gguf_cases import family_gguf, write_gguf
from hostile_gguf import HOSTILE

WORDS = ("--segments", "2", "--seq-len", "32", "--seed", "1")


@pytest.fixture
def abq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InlineCommand:
    return inline_commands(tmp_path / "data", monkeypatch, capsys)


@pytest.fixture
def pair(tiny_llama: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A Q4_1 file, and the folder with the same values."""
    return family_gguf("llama", tiny_llama / "tokenizer.json", tmp_path / "models", "Q4_1")


def test_a_run_of_a_file_is_that_of_its_folder(abq: InlineCommand, pair: tuple[Path, Path], tmp_path: Path) -> None:
    runs = []
    for model in pair:
        done = abq(
            "calibrate",
            str(model),
            "--precision",
            "W4A8",
            "--method",
            "abq",
            "--epochs",
            "1",
            *WORDS,
            "--wait",
            "--json",
        )
        assert done.returncode == 0, done.stderr
        assert ("already quantized: Q4_1, 5.0 bits a weight" in done.stderr) is (model == pair[0])
        runs.append(json.loads(done.stdout)["run"])
    shown = [json.loads(abq("runs", "show", run, "--json").stdout) for run in runs]
    assert [block["sha256"] for block in shown[0]["blocks"]] == [block["sha256"] for block in shown[1]["blocks"]]
    assert shown[0]["perplexity"] == shown[1]["perplexity"]
    assert shown[0]["weights"] == {"types": ["Q4_1"], "bits": 5.0, "quantized": True} and shown[1]["weights"] is None
    assert "The model's file stores Q4_1, 5.0 bits a weight." in abq("runs", "show", runs[0]).stdout
    assert abq("runs", "verify").returncode == 0
    spec = json.loads((tmp_path / "data" / "runs" / runs[0] / "spec.json").read_text())
    assert spec["weights"]["types"] == ["Q4_1"] and spec["fingerprint"] and spec["spec"]["model"] == str(pair[0])
    texts = [abq("generate", run, "--prompt", "def main(", "--max-new-tokens", "8", "--json").stdout for run in runs]
    assert json.loads(texts[0])["tokens"] == json.loads(texts[1])["tokens"]
    report = tmp_path / "report.html"
    assert abq("report", runs[0], "--out", str(report)).returncode == 0
    assert "Q4_1, 5.0 bits a weight" in report.read_text("utf-8")


def test_a_changed_file_does_not_continue_a_run(
    abq: InlineCommand, pair: tuple[Path, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    file = pair[0]
    command = ("calibrate", str(file), "--precision", "W4A8", "--method", "rtn", *WORDS, "--wait", "--json")
    run = json.loads(abq(*command).stdout)["run"]
    write_gguf(family_model("llama"), tiny_llama / "tokenizer.json", file, "Q8_0")
    done = abq("eval", run, "--segments", "2", "--seq-len", "16")
    assert done.returncode == 0 and "Q8_0, 8.5 bits a weight" in done.stderr
    (tmp_path / "data" / "runs" / run / "blocks" / "000.safetensors").unlink()
    assert_sentence(abq("runs", "repair", run), "the files of its model changed")


def test_evaluation_and_text_of_a_file(abq: InlineCommand, pair: tuple[Path, Path]) -> None:
    words = ("--segments", "2", "--seq-len", "32", "--json")
    ours, theirs = (json.loads(abq("eval", str(model), *words).stdout) for model in pair)
    assert ours["perplexity"] == theirs["perplexity"]
    done = abq("generate", str(pair[0]), "--prompt", "def", "--max-new-tokens", "4")
    assert done.returncode == 0 and "already quantized: Q4_1, 5.0 bits a weight" in done.stderr


def test_a_file_without_quantized_weights_is_not_called_quantized(
    abq: InlineCommand, tiny_llama: Path, tmp_path: Path
) -> None:
    file, _ = family_gguf("llama", tiny_llama / "tokenizer.json", tmp_path / "models", "BF16")
    done = abq("generate", str(file), "--prompt", "def", "--max-new-tokens", "2")
    assert done.returncode == 0 and "already quantized" not in done.stderr


@pytest.mark.parametrize("name", ["2^40 tensors", "an unknown architecture", "data that is cut off", "empty"])
def test_a_hostile_file_is_one_sentence(abq: InlineCommand, tmp_path: Path, name: str) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(HOSTILE[name].content)
    for words in (
        ("calibrate", str(file), "--precision", "W4A8"),
        ("eval", str(file)),
        ("generate", str(file), "--prompt", "a"),
    ):
        assert_sentence(abq(*words), "bad.gguf")
    assert json.loads(abq("jobs", "list", "--json").stdout)["jobs"] == []
