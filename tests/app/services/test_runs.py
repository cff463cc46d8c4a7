"""Runs: their frame, diagnostics, note, export and deletion."""

from pathlib import Path

import pytest
from app_cases import SpecMaker

from app.runs.run_folder import RunFolder, RunFolderError
from app.services import ServiceError, Services
from storage.errors import RunNotFoundError
from storage.jobs import Job

FRAMES = {
    "histograms", "levels", "blocks", "linears", "outliers", "balance", "clipping", "attention", "attention_tokens",
}  # fmt: skip


def test_a_finished_run_has_scores_diagnostics_losses_and_a_log(finished: tuple[Services, Job]) -> None:
    services, job = finished
    assert (job.state, job.progress, job.blocks_done, job.blocks_total, job.error) == ("succeeded", 1.0, 2, 2, None)
    runs = services.runs.frame().set_index("run")
    corrected, full = runs.loc[job.run_id], runs.loc[""]
    assert corrected["perplexity"] > 1 and corrected["perplexity_stderr"] > 0 and corrected["kl_mean"] > 0
    assert (corrected["stored_bits"], full["stored_bits"], full["method"], full["kl_mean"]) == (4, 16, "none", 0)
    assert corrected["weight_bytes"] < full["weight_bytes"] / 3
    size = services.models.estimate(str(job.spec["model"]), "W4A4")
    assert corrected["bits_per_parameter"] == size.bits_per_parameter < 16 == full["bits_per_parameter"]
    assert (corrected["model_bytes"], full["model_bytes"]) == (size.quantized_bytes, size.full_bytes)
    assert set(services.runs.folder(job.run_id).frame_names()) == FRAMES
    assert set(services.runs.diagnostics(job.run_id, "blocks")["lens"]) == {"rounded", "corrected"}
    losses = services.jobs.losses(job.id)
    assert set(losses["term"]) >= {"total", "dlc", "akl", "mse"} and len(losses) == 2 * 2 * losses["term"].nunique()
    assert "Started: abq calibrate" in services.jobs.log(job.id)
    assert services.jobs.frame().iloc[0]["job"] == job.id


def test_unknown_runs_and_other_paths_are_refused(finished: tuple[Services, Job]) -> None:
    services, job = finished
    with pytest.raises(RunNotFoundError):
        services.runs.get("r-ffff")
    with pytest.raises(RunFolderError):
        services.runs.diagnostics(job.run_id, "../../spec")
    with pytest.raises(RunFolderError):
        RunFolder(services.settings.runs_dir, "../outside")


def test_a_run_has_a_note_and_can_be_deleted(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.cancel(services.jobs.submit(tiny_spec("W2*A8", "rtn")).id)
    services.runs.set_note(job.run_id, " <b>note</b> ")
    assert services.runs.frame().set_index("run").loc[job.run_id, "note"] == "<b>note</b>"
    folder = services.runs.folder(job.run_id).path
    folder.mkdir(parents=True, exist_ok=True)
    services.runs.delete(job.run_id)
    assert not folder.exists() and job.run_id not in set(services.runs.frame()["run"])


def test_an_exported_run_is_complete_and_overwrites_nothing(finished: tuple[Services, Job], tmp_path: Path) -> None:
    services, job = finished
    target = services.runs.export(job.run_id, tmp_path)
    names = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {"spec.json", "evaluation.json", "blocks/000.safetensors", "diagnostics/blocks.parquet"} <= names
    with pytest.raises(ServiceError, match="already"):
        services.runs.export(job.run_id, tmp_path)


def test_a_file_that_cannot_be_copied_is_named_and_nothing_remains(
    finished: tuple[Services, Job], tmp_path: Path
) -> None:
    services, job = finished
    link = services.runs.folder(job.run_id).path / "lost.json"
    link.symlink_to(tmp_path / "nowhere")
    try:
        with pytest.raises(ServiceError, match=rf"Run {job.run_id} cannot be copied to .*No such file"):
            services.runs.export(job.run_id, tmp_path)
    finally:
        link.unlink()
    assert not list(tmp_path.iterdir())
    assert services.runs.export(job.run_id, tmp_path).is_dir()
