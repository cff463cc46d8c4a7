"""Evaluations by text and protocol: those that were stored, and those that were not."""

import os
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
from app_cases import SpecMaker, work_on

from abq_core.evaluation.noise_floor import kl_floor
from app.clock import now
from app.services import ServiceError, Services
from app.services.evaluation import EvaluationText
from storage.jobs import Job


def test_losses_without_an_evaluation_are_a_sentence(finished: tuple[Services, Job], services: Services) -> None:
    stored, job = finished
    run, model = job.run_id, str(job.spec["model"])
    assert len(stored.evaluation.segment_losses(model, run)) == len(stored.evaluation.segment_losses(model, None, run))
    for missing in ((model, run), (model, None), (model, None, run)):
        with pytest.raises(ServiceError, match="Run: abq eval"):
            services.evaluation.segment_losses(*missing)


def test_a_file_is_read_whole_unless_the_run_was_calibrated_on_it(
    services: Services, tiny_spec: SpecMaker, text_file: Path, tmp_path: Path
) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    model, run, copied = str(job.spec["model"]), job.run_id, tmp_path / "copied.txt"
    copied.write_bytes(text_file.read_bytes())
    other = tmp_path / "other.txt"
    other.write_text("Another text, of which the run has not seen a line. " * 40)

    def read(subject: str, file: Path, **how: Any) -> tuple[str, int, int]:
        text = EvaluationText(str(file), seq_len=32, **how)
        found = services.evaluation.evaluate(subject, text)
        assert services.storage.measurements.evaluations()[0].values["text"]["split"] == found.text.split
        return found.text.split, found.segments, found.text.tokens // 32

    whole, tenth = read(model, text_file), read(run, text_file, segments="all")
    assert whole[0] == "whole" and whole[1] == whole[2] > 32, "every segment of the file"
    assert tenth[0] == "evaluation" and tenth[1] == tenth[2] < whole[1] / 8
    assert read(run, text_file)[:2] == ("evaluation", 32)
    assert read(run, copied, segments=4)[:2] == ("evaluation", 4), "the same content under another name"
    assert read(run, other)[0] == "whole"
    assert read(model, text_file, segments=4)[:2] == ("whole", 4)
    assert read(model, text_file, segments="all", held_out=True) == tenth
    assert (
        read(run, text_file, protocol="paper")[0] == "evaluation" and read(run, other, protocol="paper")[0] == "whole"
    )
    shutil.rmtree(services.runs.folder(run).path / "diagnostics")
    (services.runs.folder(run).path / "data.json").write_text("{")
    assert read(run, text_file, segments=4)[0] == "evaluation", "its spec still names the text"


def test_the_kl_floor_is_measured_once_for_a_model_text_and_protocol(
    services: Services, tiny_spec: SpecMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(full: Any, segments: Any, *rest: Any) -> float:
        measured.append(tuple(segments.shape))
        return kl_floor(full, segments, *rest)

    monkeypatch.setattr("abq_core.evaluation.noise_floor.kl_floor", counted)
    job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    assert measured == [(4, 32)], "the job measures it with the model at full precision"
    rows = services.storage.measurements.evaluations()
    assert len({row.values["kl_floor"] for row in rows}) == 1 and rows[0].values["kl_floor"] > 0
    frame = services.runs.frame().set_index("run")
    assert (frame["kl_floor"] == rows[0].values["kl_floor"]).all()
    assert frame.loc[job.run_id, "kl_mean"] > 10 * frame.loc[job.run_id, "kl_floor"]
    services.evaluation.evaluate(job.run_id, EvaluationText(str(text_file), 4, 32))
    assert len(measured) == 1
    text = EvaluationText(str(text_file), seq_len=32, protocol="paper", held_out=True)
    paper, again = (services.evaluation.evaluate(subject, text) for subject in (job.run_id, str(job.spec["model"])))
    assert len(measured) == 2 and paper.kl_floor == again.kl_floor


def test_evaluations_of_each_text_and_protocol_are_shown_apart(
    services: Services, tiny_spec: SpecMaker, text_file: Path
) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    model, run = str(job.spec["model"]), job.run_id
    for subject in (run, model):
        services.evaluation.evaluate(
            subject, EvaluationText(str(text_file), seq_len=64, protocol="paper", held_out=True)
        )
    paper, windows = services.runs.texts_of(model)
    assert paper.startswith("paper, ") and windows == f"windows, 4 x 32, {text_file.name} (last tenth)"
    latest, older = services.runs.newest_frame(), services.runs.newest_frame(windows)
    assert list(latest["protocol"]) == ["paper", "paper"] and list(older["protocol"]) == ["windows", "windows"]
    assert latest["perplexity"].iloc[0] != older["perplexity"].iloc[0]
    assert services.runs.newest_frame("windows, 5 x 32, elsewhere")["perplexity"].isna().all()
    for label, frame in (("", latest), (paper, latest), (windows, older)):
        buckets = services.evaluation.kl_buckets(run, label)
        assert buckets["share"].sum() == pytest.approx(1)
        kl = (buckets["share"] * buckets["kl_mean"].fillna(0)).sum()
        assert kl == pytest.approx(frame.set_index("run").loc[run, "kl_mean"])
    assert services.evaluation.kl_buckets(run, "windows, 5 x 32, elsewhere").empty


def test_an_evaluation_of_an_earlier_version_is_one_of_windows_without_floor_and_buckets(
    services: Services, tiny_spec: SpecMaker
) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    newest = services.storage.measurements.evaluations(job.run_id)[0]
    new = ("protocol", "kl_floor", "kl_buckets")
    old = {name: value for name, value in newest.values.items() if name not in new}
    services.storage.measurements.add_evaluation(job.run_id, newest.model, now(), old)
    row = services.runs.frame().set_index("run").loc[job.run_id]
    assert row["protocol"] == "windows" and pandas.isna(row["kl_floor"]) and row["perplexity"] > 1
    assert services.evaluation.kl_buckets(job.run_id).empty
    assert len(services.runs.frame()) == 2, "it is compared with full precision on the same text"


def test_a_relative_path_is_stored_as_the_runs_store_it(
    services: Services, tiny_spec: SpecMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    model = Path(str(job.spec["model"]))
    monkeypatch.chdir(text_file.parent)
    text = EvaluationText(text_file.name, 4, 32)
    relative = os.path.relpath(model, text_file.parent)
    for subject in (relative, job.run_id):
        assert services.evaluation.evaluate(subject, text).data == str(text_file.resolve())
    frame = services.runs.newest_frame()
    assert set(frame["model"]) == {str(model)} and list(frame["run"]) == [job.run_id, ""]
