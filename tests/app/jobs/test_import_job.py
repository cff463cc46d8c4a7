"""Imports from file to run: sizes, scores, diagnostics, text, verification, repair and resuming."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from app_cases import settings_in, work_on
from attack_cases import assert_sentence
from inline_commands import InlineCommand, inline_commands
from model_folder_cases import edit_json
from packed_cases import write_compressed, write_gptq
from safetensors.torch import load_file, save_file

pytest.importorskip("gguf", reason="needs the extra gguf")

from gguf_cases import family_gguf

from abq_core.imports.model import symmetric_per_token
from abq_core.models.loading import load_model
from app.jobs.import_job import ImportJob
from app.jobs.lease import JobStopped
from app.runs.run_check import verify
from app.services import Services, open_services
from app.services.evaluation import EvaluationText
from storage.jobs import Job


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return open_services(settings_in(tmp_path / "data"))


@pytest.fixture
def pair(tiny_llama: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A Q4_1 file, and the folder with the same values."""
    return family_gguf("llama", tiny_llama / "tokenizer.json", tmp_path / "models", "Q4_1")


def imported(services: Services, source: Path, base: Path) -> Job:
    job = work_on(services, services.imports.submit(str(source), str(base)))
    assert job.state == "succeeded", (job.error, services.jobs.log(job.id))
    return job


def test_a_file_becomes_a_run_with_the_sizes_of_the_file(services: Services, pair: tuple[Path, Path]) -> None:
    file, base = pair
    job = imported(services, file, base)
    row = services.runs.frame().set_index("run").loc[job.run_id]
    assert (row["precision"], row["method"], row["model"]) == ("Q4_1", "imported", str(base))
    assert row["kl_mean"] == pytest.approx(0, abs=1e-6) and row["same_top"] == 1
    assert row["stored_bits"] == 5 and math.isnan(row["information_bits"])
    model = load_model(str(base)).model
    linears = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name)
    assert row["weight_bytes"] == linears * 5 // 8
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert row["model_bytes"] == matrices * 5 // 8 + 4 * vectors
    assert row["bits_per_parameter"] == pytest.approx(8 * row["model_bytes"] / (matrices + vectors))
    full = services.runs.frame().set_index("run").loc[""]
    assert row["perplexity"] == pytest.approx(full["perplexity"], rel=1e-5)


def test_its_diagnostics_compare_it_with_the_base(services: Services, tiny_llama: Path, tmp_path: Path) -> None:
    expected = write_gptq(tiny_llama, tmp_path / "gptq", bits=3)
    job = imported(services, tmp_path / "gptq", tiny_llama)
    linears = services.runs.diagnostics(job.run_id, "linears").set_index(["block", "tensor"])
    original = load_file(tiny_llama / "model.safetensors")
    for name, weight in expected.items():
        block, tensor = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        noise = (original[name] - weight).double().pow(2).sum()
        snr = 10 * math.log10(float(original[name].double().pow(2).sum() / noise))
        assert linears.loc[(int(block), tensor), "weight_snr_db"] == pytest.approx(snr, abs=0.01)
    levels = services.runs.diagnostics(job.run_id, "levels")
    counts = levels.groupby(["block", "tensor"])["count"].sum()
    assert all(counts[int(n.split(".")[2]), n.split(".", 3)[3][:-7]] == w.numel() for n, w in expected.items())
    assert set(levels["lens"]) == {"imported"} and levels["level"].between(-7, 7).all()
    blocks = services.runs.diagnostics(job.run_id, "blocks")
    assert set(blocks["lens"]) == {"imported"} and blocks["cosine"].between(0.5, 1).all()
    assert {"full", "imported"} <= set(services.runs.diagnostics(job.run_id, "attention").columns)


def test_evaluation_and_text_are_those_of_the_decoded_model(
    services: Services, tiny_llama: Path, tmp_path: Path
) -> None:
    """A folder with the decoded weights, loaded as an ordinary model, gives the same numbers and tokens."""
    expected = write_compressed(tiny_llama, tmp_path / "packed", bits=3)
    decoded = tmp_path / "decoded"
    shutil.copytree(tiny_llama, decoded)
    save_file(load_file(decoded / "model.safetensors") | expected, decoded / "model.safetensors", {"format": "pt"})
    job = imported(services, tmp_path / "packed", tiny_llama)
    text = EvaluationText(segments=4, seq_len=32)
    scores = services.evaluation.evaluate(job.run_id, text)
    assert scores.perplexity == pytest.approx(services.evaluation.evaluate(str(decoded), text).perplexity, rel=1e-5)
    assert scores.kl_mean > 1e-4
    ours, theirs = (
        [
            event.id
            for event in services.generation.generate([column], "def main(", 8, model=model)
            if hasattr(event, "id")
        ]
        for column, model in ((job.run_id, "builtin"), ("full", str(decoded)))
    )
    assert ours == theirs


def test_quantized_activations_are_simulated(services: Services, tiny_llama: Path, tmp_path: Path) -> None:
    kl = []
    for act_bits in (16, 8, 3):
        folder = tmp_path / str(act_bits)
        write_compressed(tiny_llama, folder, bits=8, act_bits=act_bits)
        job = imported(services, folder, tiny_llama)
        kl.append(services.runs.frame().set_index("run").loc[job.run_id, "kl_mean"])
        assert job.spec["precision"] == f"compressed-tensors W8{f'A{act_bits}' if act_bits < 16 else ''}g32"
    assert kl[0] < kl[1] < kl[2]


def test_symmetric_activations() -> None:
    """compressed-tensors 0.20: the scale of a token is its largest magnitude over 127.5, codes are -128..127."""
    x = torch.tensor([[-1.0, 2.0, 0.3], [0.0, 0.0, 0.0]])
    scale = 2 / 127.5
    expected = torch.tensor([[-64 * scale, 127 * scale, 19 * scale], [0, 0, 0]])
    torch.testing.assert_close(symmetric_per_token(x, 8), expected)


def test_its_files_are_verified_and_repaired(services: Services, pair: tuple[Path, Path]) -> None:
    from app.jobs.repair import repair

    job = imported(services, *pair)
    folder = services.runs.folder(job.run_id)
    run = services.runs.get(job.run_id)
    assert verify(services.storage.runs, services.settings.runs_dir, run) == []
    before = folder.block_path(1).read_bytes()
    folder.block_path(1).write_bytes(b"damaged")
    assert verify(services.storage.runs, services.settings.runs_dir, run) == [
        "The file of block 1 differs from the recorded one."
    ]
    assert repair(services, job.run_id).remaining == []
    assert folder.block_path(1).read_bytes() == before


def test_it_continues_after_its_last_part(
    services: Services, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = services.imports.submit(*map(str, pair))

    def stop(*_: object) -> None:
        raise JobStopped("cancelled")

    with monkeypatch.context() as patch:
        patch.setattr(ImportJob, "_write_diagnostics", stop)
        job = work_on(services, job)
    assert job.state == "cancelled" and job.blocks_done == job.blocks_total
    stored = [record.recorded_at for record in services.storage.runs.blocks(job.run_id)]
    job = work_on(services, services.jobs.resume(job.id))
    assert job.state == "succeeded"
    assert [record.recorded_at for record in services.storage.runs.blocks(job.run_id)] == stored


def test_a_changed_file_does_not_continue(
    services: Services, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = services.imports.submit(*map(str, pair))

    def stop(*_: object) -> None:
        raise JobStopped("cancelled")

    with monkeypatch.context() as patch:
        patch.setattr(ImportJob, "_write_diagnostics", stop)
        work_on(services, job)
    raw = bytearray(pair[0].read_bytes())
    raw[-40] ^= 1
    pair[0].write_bytes(raw)
    job = work_on(services, services.jobs.resume(job.id))
    assert job.state == "failed" and "the imported files changed" in str(job.error)


@pytest.fixture
def abq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InlineCommand:
    return inline_commands(tmp_path / "data", monkeypatch, capsys)


def test_the_command(abq: InlineCommand, pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = abq("import", str(pair[0]), "--base", str(pair[1]), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["state"] == "succeeded" and (answer["precision"], answer["stored_bits"]) == ("Q4_1", 5.0)
    assert answer["format"] == "gguf" and answer["file_bytes"] == pair[0].stat().st_size > answer["model_bytes"]
    run = answer["run"]
    shown = json.loads(abq("runs", "show", run, "--json").stdout)
    assert shown["command"] == f"abq import {pair[0]} --base {pair[1]}"
    assert "Imported with:" in abq("runs", "show", run).stdout
    assert run in abq("runs", "list").stdout and abq("runs", "verify").returncode == 0
    written = json.loads(abq("generate", run, "--prompt", "def", "--max-new-tokens", "4", "--json").stdout)
    assert len(written["tokens"]) == 4
    assert_sentence(abq("bench", "decode", "--columns", f"fp32,{run}"), "computes in float32 here")
    exported = abq("export", run, "--to", "compressed-tensors", "--out", str(tmp_path / "out"))
    assert_sentence(exported, "is imported: use its file")
    report = tmp_path / "report.html"
    assert abq("report", run, "--out", str(report)).returncode == 0 and "abq import" in report.read_text("utf-8")
    assert abq("runs", "delete", run, "--yes").returncode == 0


def test_what_cannot_be_imported_is_one_sentence(
    abq: InlineCommand, pair: tuple[Path, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    file, base = map(str, pair)
    assert_sentence(abq("import", str(tmp_path / "missing.gguf"), "--base", base), "missing.gguf")
    assert_sentence(abq("import", base, "--base", base), "describes no quantization")
    assert_sentence(abq("import", file, "--base", "builtin"), "Name the model that the file was made from with --base")
    assert_sentence(abq("import", file, "--base", str(tmp_path / "missing")), "missing")
    assert_sentence(abq("import", file, "--base", base, "--data", "/nowhere.txt"), "/nowhere.txt")
    write_gptq(tiny_llama, tmp_path / "gptq")
    edit_json(
        tmp_path / "gptq" / "config.json", lambda config: config["quantization_config"].update(quant_method="awq")
    )
    assert_sentence(abq("import", str(tmp_path / "gptq"), "--base", str(tiny_llama)), "'awq', which cannot be imported")
    assert json.loads(abq("jobs", "list", "--json").stdout)["jobs"] == []
