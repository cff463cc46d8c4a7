"""The text of a run: recorded, shown, equal for equal specs, and never exchanged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from app_cases import SpecMaker, work_on
from ray_cases import FakeCluster
from tokenizer_cases import with_prefix
from torch import nn

from abq_core.calibration.block_learning import learn_block
from abq_core.text.segments import segments, segments_from_record
from app.cli.main import main
from app.jobs.calibration_job import EvaluationPlan
from app.jobs.executors.cluster import ClusterJobs
from app.services import Services
from storage.jobs import Job


def test_a_run_records_exactly_the_text_it_read(finished: tuple[Services, Job]) -> None:
    services, job = finished
    spec, record = job.spec, services.runs.texts(job.run_id)["blocks"]
    assert (record.source, record.split) == (spec["data"], "calibration")
    tokenizer = services.registry.full(spec["model"]).tokenizer
    read = segments(spec["data"], tokenizer, spec["segments"], spec["seq_len"], spec["seed"], "calibration")
    assert torch.equal(segments_from_record(record, tokenizer), read)
    measured = services.storage.measurements.evaluations(job.run_id)[0].values["text"]
    assert (measured["split"], len(measured["windows"])) == ("evaluation", 4)
    assert measured["revision"] == record.revision and measured["sha256"] != record.sha256


def test_equal_specs_give_equal_records(services: Services, tiny_spec: SpecMaker) -> None:
    jobs = [work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn", seed=seed))) for seed in (5, 5, 6)]
    first, same, other = (services.runs.texts(job.run_id)["blocks"] for job in jobs)
    assert first == same and first.windows != other.windows


def test_the_text_of_a_run_is_shown(
    finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    services, job = finished
    record = services.runs.texts(job.run_id)["blocks"]
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["runs", "show", job.run_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == {"blocks": record.to_dict()}
    line = f"2 windows of 32 tokens of {record.source} (calibration split, 1 document), seed 0"
    assert main(["runs", "show", job.run_id]) == 0
    assert line in " ".join(capsys.readouterr().out.split())
    page = services.reports.write([job.run_id], tmp_path / "report.html").read_text("utf-8")
    assert line in page and record.sha256[:12] in page


def test_a_run_does_not_continue_with_another_text(
    services: Services, tiny_spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise RuntimeError("stopped")

    file = tmp_path / "changing.txt"
    text = "The module provides functions to read and write files. " * 400
    file.write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr("app.jobs.calibration_job.CalibrationJob._diagnose", stop)
        job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn", data=str(file))))
    assert (job.state, job.blocks_done) == ("failed", 2)
    file.write_text("Another text. " + text)
    refused = work_on(services, services.jobs.resume(job.id))
    assert refused.state == "failed" and "changed since this run began" in str(refused.error)
    file.write_text(text)
    assert work_on(services, services.jobs.resume(job.id)).state == "succeeded"


def test_an_unavailable_text_is_refused_before_anything_is_queued(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in ("wikitext2@" + "a" * 40, "no/such/file.txt", "wikitext103"):
        with pytest.raises(ValueError, match=r"'builtin'|is not known"):
            services.jobs.submit(tiny_spec(data=source))
    assert not services.storage.jobs.list()


def test_a_run_reads_the_text_as_its_tokenizer_lets_it_begin(
    services: Services,
    tiny_spec: SpecMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = with_prefix(Path(tiny_spec().model), tmp_path / "adds-bos", [299])
    job = work_on(services, services.jobs.submit(replace(tiny_spec("W4A4", "rtn"), model=str(model))))
    record = services.runs.texts(job.run_id)["blocks"]
    assert record.prefix == (299,)
    measured = services.storage.measurements.evaluations()
    assert [row.values["text"]["prefix"] for row in measured] == [[299], [299]]
    assert {row.values["tokens"] for row in measured} == {4 * 31}
    assert services.runs.diagnostics(job.run_id, "attention_tokens")["text"][0] == services.registry.full(
        str(model)
    ).tokenizer.decode([299])
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["runs", "show", job.run_id]) == 0
    assert "each after BOS (token 299)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("on_cluster", [False, True])
def test_a_run_of_an_earlier_version_continues_without_bos_and_says_so(
    on_cluster: bool,
    services: Services,
    tiny_spec: SpecMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def learn_the_first_block(module: nn.Module, index: int, *arguments: Any) -> None:
        if index > 0:
            raise RuntimeError("stopped")
        learn_block(module, index, *arguments)

    plain = work_on(services, services.jobs.submit(tiny_spec("W4A4", "abq")))
    model = with_prefix(Path(tiny_spec().model), tmp_path / "adds-bos", [299])
    job = services.jobs.submit(replace(tiny_spec("W4A4", "abq"), model=str(model)))
    with monkeypatch.context() as patch:  # an earlier version, which stops after the first block
        patch.setattr("abq_core.text.segments.text_prefix", lambda tokenizer: ())
        patch.setattr("abq_core.calibration.calibrate.learn_block", learn_the_first_block)
        assert work_on(services, job).blocks_done == 1
    file = services.runs.folder(job.run_id).path / "data.json"
    stored = json.loads(file.read_text())
    del stored["blocks"]["prefix"]
    file.write_text(json.dumps(stored))

    resumed = services.jobs.resume(job.id)
    if on_cluster:
        ClusterJobs(services, FakeCluster(), plan=EvaluationPlan(4, 32)).bring_to_end([job.id])
    else:
        work_on(services, resumed)
    ended = services.jobs.get(job.id)
    assert ended.state == "succeeded", services.jobs.log(job.id)
    blocks = [[block.sha256 for block in services.storage.runs.blocks(one.run_id)] for one in (plain, ended)]
    assert blocks[0] == blocks[1]
    assert services.runs.texts(job.run_id)["blocks"].prefix is None
    assert services.storage.measurements.evaluations(job.run_id)[0].values["text"]["prefix"] == [299]
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["runs", "show", job.run_id]) == 0
    assert "made without BOS" in " ".join(capsys.readouterr().out.split())
