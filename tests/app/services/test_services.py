"""The services on a tiny model: what a finished run gives, what is refused, what is kept."""

import dataclasses
from pathlib import Path

import pytest
from app_cases import SpecMaker, work_on

from abq_core.calibration.quantized_block import MissingBlockError
from abq_core.inference.generate import Finished, PromptError, Token
from abq_core.models.errors import ModelError
from abq_core.planning.estimate import EstimateError
from abq_core.precision import PrecisionError
from abq_core.text.errors import DataError
from app.clock import now
from app.runs.run_folder import RunFolder, RunFolderError
from app.services import ServiceError, Services
from storage.errors import JobNotFoundError, RunNotFoundError
from storage.jobs import Job

FRAMES = {
    "histograms", "levels", "blocks", "linears", "outliers", "balance", "clipping", "attention", "attention_tokens",
}  # fmt: skip


def test_a_finished_run_has_everything_that_the_page_shows(finished: tuple[Services, Job]) -> None:
    services, job = finished
    assert (job.state, job.progress, job.blocks_done, job.blocks_total, job.error) == ("succeeded", 1.0, 2, 2, None)
    runs = services.runs.frame().set_index("run")
    corrected, full = runs.loc[job.run_id], runs.loc[""]
    assert corrected["perplexity"] > 1 and corrected["perplexity_stderr"] > 0 and corrected["kl_mean"] > 0
    assert (corrected["stored_bits"], full["stored_bits"], full["method"], full["kl_mean"]) == (4, 16, "none", 0)
    assert corrected["weight_bytes"] < full["weight_bytes"] / 3
    assert set(services.runs.folder(job.run_id).frame_names()) == FRAMES
    assert set(services.runs.diagnostics(job.run_id, "blocks")["lens"]) == {"rounded", "corrected"}
    losses = services.jobs.losses(job.id)
    assert set(losses["term"]) >= {"total", "dlc", "akl", "mse"} and len(losses) == 2 * 2 * losses["term"].nunique()
    assert "Started: abq calibrate" in services.jobs.log(job.id)
    assert services.jobs.frame().iloc[0]["job"] == job.id


def test_columns_stream_in_turn_and_the_packed_run_follows_the_model(finished: tuple[Services, Job]) -> None:
    services, job = finished
    columns = ["full", job.run_id, "W8A8"]
    events = list(services.generation.generate(columns, "The module", 5, model=services.runs.get(job.run_id).model))
    tokens = [event for event in events if isinstance(event, Token)]
    assert [token.column for token in tokens[:3]] == columns
    assert all(token.kl == 0 for token in tokens if token.column == "full")
    assert all(token.kl > 0 for token in tokens if token.column == job.run_id)
    sizes = {event.column: event.weight_bytes for event in events if isinstance(event, Finished)}
    assert sizes[job.run_id] < sizes["W8A8"] < sizes["full"]


def test_decode_names_the_path_of_every_column(finished: tuple[Services, Job]) -> None:
    services, job = finished
    frame = services.throughput.time_decode(
        ["fp32", "bf16", "int8", "W2A8", job.run_id], 4, services.runs.get(job.run_id).model
    )
    assert (frame["tokens_per_second"] > 0).all()
    paths = frame.set_index("column")["path"]
    assert "fp32" in paths["fp32"] and "bf16" in paths["bf16"] and "int8" in paths["int8"]
    assert paths["W2A8"].startswith("abq ") and paths[job.run_id].startswith("abq ")
    sizes = frame.set_index("column")["weight_bytes"]
    assert sizes["fp32"] == 2 * sizes["bf16"] and sizes["W2A8"] < sizes["int8"] < sizes["bf16"]
    assert "decode" in set(services.timings.frame()["kind"])


def test_explore_is_computed_once(finished: tuple[Services, Job]) -> None:
    services, job = finished
    model = services.runs.get(job.run_id).model
    first = services.models.explore(model, "W2*A8")
    assert services.models.explore(model, "w2*a8") is first and not first["levels"].empty


def test_models_are_loaded_once_and_the_least_used_leave(finished: tuple[Services, Job], tiny_llama: Path) -> None:
    from app.services.registry import ModelRegistry

    services, _ = finished
    registry = ModelRegistry(services.settings, services.storage.runs, max_models=2)
    full = registry.full(str(tiny_llama))
    first = registry.column("W2A8", str(tiny_llama))
    assert registry.full(str(tiny_llama)) is full and registry.column("W2A8", str(tiny_llama)) is first
    registry.column("W3A8", str(tiny_llama))
    assert registry.column("W2A8", str(tiny_llama)) is not first


def test_what_cannot_be_done_is_refused_by_name(
    finished: tuple[Services, Job], tiny_spec: SpecMaker, tmp_path: Path
) -> None:
    services, job = finished
    model = services.runs.get(job.run_id).model
    before = len(services.storage.jobs.list())
    with pytest.raises(ModelError):
        services.jobs.submit(dataclasses.replace(tiny_spec(), model=str(tmp_path)))
    with pytest.raises(DataError, match="no file"):
        services.jobs.submit(tiny_spec(data=str(tmp_path / "missing.txt")))
    with pytest.raises(EstimateError):
        services.jobs.submit(tiny_spec(segments=4096, seq_len=131072))
    assert len(services.storage.jobs.list()) == before
    with pytest.raises(RunNotFoundError):
        services.runs.get("r-ffff")
    with pytest.raises(JobNotFoundError):
        services.jobs.cancel("j-ffff")
    with pytest.raises(PrecisionError):
        services.models.explore(model, "W9A9")
    with pytest.raises(PromptError):
        services.generation.generate(["full"], "word " * 500, 8, model=model)
    with pytest.raises(RunFolderError):
        services.runs.diagnostics(job.run_id, "../../spec")
    with pytest.raises(RunFolderError):
        RunFolder(services.settings.runs_dir, "../outside")


def test_a_cancelled_job_can_be_resumed_and_its_run_deleted(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec("W2*A8", "rtn"))
    assert services.jobs.cancel(job.id).state == "cancelled"
    assert services.jobs.resume(job.id).state == "queued"
    assert work_on(services, job).state == "succeeded"
    services.runs.set_note(job.run_id, " <b>note</b> ")
    assert services.runs.frame().set_index("run").loc[job.run_id, "note"] == "<b>note</b>"
    folder = services.runs.folder(job.run_id).path
    services.runs.delete(job.run_id)
    assert not folder.exists() and job.run_id not in set(services.runs.frame()["run"])


def test_the_queue_reads_well_with_jobs_in_every_state(services: Services, tiny_spec: SpecMaker) -> None:
    failed, running, queued = (services.jobs.submit(tiny_spec("W4A4", "rtn")) for _ in range(3))
    claimed = services.storage.jobs.claim_next("w", now())
    assert claimed is not None and claimed.id == failed.id
    services.storage.jobs.fail(claimed.id, claimed.epoch, now(), "The disk is full.")
    claimed = services.storage.jobs.claim_next("w", now())
    assert claimed is not None and claimed.id == running.id
    services.storage.jobs.progress(claimed.id, claimed.epoch, now(), 0.5, "Block 1 of 2.", eta_seconds=12.0)
    frame = services.jobs.frame().set_index("job")
    assert frame["error"].to_dict() == {failed.id: "The disk is full.", running.id: "", queued.id: ""}
    assert frame["message"][running.id] == "Block 1 of 2." and frame["message"][failed.id] == ""
    assert frame["eta_seconds"][running.id] == 12.0 and frame["eta_seconds"].isna()[queued.id]


def test_a_changed_block_is_not_used(services: Services, tiny_spec: SpecMaker) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A8", "rtn")))
    path = services.runs.folder(job.run_id).block_path(1)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    services.registry.forget(job.run_id)
    with pytest.raises(MissingBlockError):
        list(services.generation.generate([job.run_id], "The module", 2))


def test_an_exported_run_is_complete_and_overwrites_nothing(finished: tuple[Services, Job], tmp_path: Path) -> None:
    services, job = finished
    target = services.runs.export(job.run_id, tmp_path)
    names = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {"spec.json", "evaluation.json", "blocks/000.safetensors", "diagnostics/blocks.parquet"} <= names
    with pytest.raises(ServiceError, match="already"):
        services.runs.export(job.run_id, tmp_path)
