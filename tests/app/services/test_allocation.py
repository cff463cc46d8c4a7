"""Mixed precision under a budget, end to end on a tiny model.

Chosen, calibrated, and shown wherever runs are.
"""

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from app_cases import SpecMaker, settings_in, work_on

from abq_core.mix import MixError, PrecisionMix
from abq_core.planning.allocate import BudgetError
from abq_core.precision import Precision, PrecisionError
from abq_core.spec import CalibrationSpec, read_precision
from app.cli.main import main
from app.clock import now
from app.figures.allocation import allocation_figure, prediction_figure
from app.services import Services, open_services
from app.services.allocation import SensitivityText
from app.web import html
from app.web.page.selection import Selection, readable
from app.web.page.steps import Steps
from app.web.tabs.compare.budget_panel import Mix, mix_table
from storage.jobs import Job

CANDIDATES = ["W2A8", "W4A8", "W16A8"]


def small(text_file: Path) -> SensitivityText:
    return SensitivityText(str(text_file), segments=2, seq_len=32)


HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def mixed(
    tmp_path_factory: pytest.TempPathFactory, tiny_spec: SpecMaker, text_file: Path
) -> tuple[Services, Job, PrecisionMix]:
    """Services with one finished run of a mix from `allocate`. Tests must not modify it."""
    services = open_services(settings_in(tmp_path_factory.mktemp("mixed")))
    spec = tiny_spec()
    chosen = services.allocation.allocate(spec.model, CANDIDATES, 3.5, text=small(text_file))
    assert isinstance(chosen.precision, PrecisionMix)
    job = work_on(services, services.jobs.submit(dataclasses.replace(spec, precision=chosen.precision)))
    assert job.state == "succeeded", job.error
    return services, job, chosen.precision


def test_a_mix_is_stored_and_shown_with_its_bits(mixed: tuple[Services, Job, PrecisionMix]) -> None:
    services, job, mix = mixed
    runs = services.runs.frame()
    row = runs[runs["run"].eq(job.run_id)].iloc[0]
    assert row["precision"] == str(mix)
    assert row["stored_bits"] == pytest.approx(mix.stored_bits) and 2 < row["stored_bits"] <= 3.5
    assert row["information_bits"] == pytest.approx(mix.information_bits)
    foreseen = services.models.estimate(str(job.spec["model"]), mix)
    full = runs[runs["run"].eq("")].iloc[0]
    assert foreseen.full_bytes - foreseen.quantized_bytes == full["weight_bytes"] - row["weight_bytes"]


def test_a_mix_has_the_bits_of_the_tables_of_its_candidates(
    mixed: tuple[Services, Job, PrecisionMix], text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, job, mix = mixed
    monkeypatch.setattr("abq_core.planning.sensitivity.sensitivities", None)  # what was measured without them counts
    candidates = [f"{candidate}h8e6" for candidate in CANDIDATES]
    chosen = services.allocation.allocate(str(job.spec["model"]), candidates, 3.5, text=small(text_file))
    assert chosen.precision == mix.with_tables(8, 6) and "h8e6mix-" in str(chosen.precision)
    assert {str(one) for one in chosen.uniform} == set(candidates)
    assert read_precision(chosen.to_dict()) == chosen.precision
    with pytest.raises(BudgetError, match="LM head"):
        services.allocation.allocate(str(job.spec["model"]), ["W2A8", "W4A8h8"], 3.5, text=small(text_file))


def test_a_budget_of_the_whole_model_chooses_the_bits_of_its_tables(
    mixed: tuple[Services, Job, PrecisionMix], text_file: Path
) -> None:
    services, job, _ = mixed
    model, text = str(job.spec["model"]), small(text_file)
    sizes, tables, distances = [], [], []
    for budget in (5.0, 6.5, 9.0, 17.0):
        chosen = services.allocation.allocate_model(model, CANDIDATES, budget, text)
        sizes.append(services.models.estimate(model, chosen.precision).bits_per_parameter)
        assert sizes[-1] <= budget
        tables.append(chosen.precision.head_bits or 16)
        distances.append(chosen.predicted_kl)
        assert chosen.precision.head_bits == chosen.precision.embedding_bits
    assert tables == sorted(tables) and tables[0] < 16 == tables[-1]
    assert distances == sorted(distances, reverse=True)
    fixed = services.allocation.allocate(model, CANDIDATES, stored_bits=16.0, text=text)
    assert distances[-1] == pytest.approx(fixed.predicted_kl)
    with pytest.raises(BudgetError, match=r"1 bits per parameter cannot be met"):
        services.allocation.allocate_model(model, CANDIDATES, 1.0, text)
    for wrong in ([], ["W2A8h8"], ["W2A8", "W4A4"]):
        with pytest.raises(BudgetError):
            services.allocation.allocate_model(model, wrong, 5.0, text)


def test_a_run_that_a_later_version_wrote_is_left_out(services: Services, tiny_spec: SpecMaker) -> None:
    run = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn"))).run_id
    later = services.storage.jobs.submit(tiny_spec("W4A4", "rtn").to_dict() | {"precision": "W4A4?z9"}, now()).run_id
    (evaluation,) = services.storage.measurements.evaluations(run)
    services.storage.measurements.add_evaluation(later, evaluation.model, now(), dict(evaluation.values))
    assert {run, later} <= set(services.runs.newest_frame()["run"])
    services.allocation.mix_checks(evaluation.model)
    assert set(services.allocation.predictions(evaluation.model)["run"]) <= {run}


def test_a_mix_is_found_by_name_while_it_has_a_run(mixed: tuple[Services, Job, PrecisionMix]) -> None:
    services, _, mix = mixed
    assert services.models.precision(f" {mix} ") == mix
    with pytest.raises(MixError, match="abq allocate"):
        services.models.precision("W2.5A8mix-000000")
    with pytest.raises(PrecisionError):
        services.models.precision("W2.5A8mix-")
    for broken in ("{", "{}", '{"precision": 7}', '{"precision": "W2A8", "mix": [1]}'):
        with pytest.raises(PrecisionError):
            services.models.precision(broken)


def test_the_page_keeps_a_mix_selected_in_all_tabs(mixed: tuple[Services, Job, PrecisionMix]) -> None:
    services, job, mix = mixed
    runs = services.runs.frame()
    model = str(job.spec["model"])
    chosen = Selection(model=model, precision=str(mix)).settled(runs)
    assert (chosen.run, chosen.precision) == (job.run_id, str(mix))
    unknown = Selection(model=model, precision="W2.5A8mix-000000").settled(runs)
    assert unknown.run == "" and readable(unknown.precision)
    assert f"<b>{mix.stored_bits:.2f}</b>" in html.render("bits.html", precision=mix)
    linears = services.models.explore(model, str(mix))["linears"]
    assert len(linears) == len(mix.linears)


def test_a_mix_generates_text_and_is_exported_and_reported(
    mixed: tuple[Services, Job, PrecisionMix], tmp_path: Path
) -> None:
    services, job, mix = mixed
    model = str(job.spec["model"])
    events = list(services.generation.generate([job.run_id, str(mix)], "def open", 3, model=model))
    assert {event.column for event in events} == {job.run_id, str(mix)}
    exported = services.runs.export(job.run_id, tmp_path)
    spec = json.loads((exported / "spec.json").read_text("utf-8"))["spec"]
    assert PrecisionMix.from_dict(spec["mix"]) == mix
    page = services.reports.write([job.run_id], tmp_path / "report.html").read_text("utf-8")
    assert str(mix) in page and f"<td>{mix.stored_bits:.2f}</td>" in page


def test_sensitivities_are_measured_once_and_predict_kl(
    mixed: tuple[Services, Job, PrecisionMix], text_file: Path
) -> None:
    services, job, mix = mixed
    model = str(job.spec["model"])
    steps: list[int] = []
    again = services.allocation.allocate(
        model, CANDIDATES, 3.5, text=small(text_file), on_step=lambda done, total: steps.append(done)
    )
    assert again.precision == mix and not steps
    wider = [*CANDIDATES, "W8A8"]
    services.allocation.allocate(
        model, wider, 3.5, text=small(text_file), on_step=lambda done, total: steps.append(total)
    )
    assert set(steps) == {len(mix.linears)}  # only the new candidate
    predictions = services.allocation.predictions(model)
    row = predictions.set_index("run").loc[job.run_id]
    assert row["predicted_kl"] == pytest.approx(again.predicted_kl) and row["kl_mean"] > 0
    assert services.allocation.predictions("elsewhere").empty


def test_a_mix_is_compared_with_a_uniform_precision_of_its_size(
    mixed: tuple[Services, Job, PrecisionMix],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    services, job, mix = mixed
    model = str(job.spec["model"])
    (alone,) = services.allocation.mix_checks(model)
    assert alone.mix["run"] == job.run_id and alone.kept is None
    spec = dataclasses.replace(CalibrationSpec.from_dict(job.spec), precision=Precision.parse("W2A8"))
    uniform = work_on(services, services.jobs.submit(spec))
    (check,) = services.allocation.mix_checks(model)
    assert check.uniform is not None and check.uniform["run"] == uniform.run_id
    assert check.kept is (check.mix["kl_mean"] < check.uniform["kl_mean"])
    assert str(mix) in mix_table([check]) and check.verdict in mix_table([check])
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["runs", "mixes", model, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["mixes"]
    assert (told["run"], told["uniform_run"], told["kept"]) == (job.run_id, uniform.run_id, check.kept)
    assert main(["runs", "mixes", model]) == 0 and check.verdict in " ".join(capsys.readouterr().out.split())
    assert main(["runs", "mixes", "elsewhere"]) == 0 and "abq allocate" in capsys.readouterr().out
    services.runs.delete(uniform.run_id)


def test_an_impossible_budget_is_refused_before_anything_is_measured(services: Services, tiny_llama: Path) -> None:
    def never(done: int, total: int) -> None:
        raise AssertionError

    for candidates, bits, said in (
        (["W2A8", "W4A8kv8"], 3.0, "cannot be mixed"),
        (["W2A8", "W4A4"], 3.0, "differ in activation bits"),
        ([], 3.0, "no candidates"),
        (["W2A8"], float("inf"), "above 0"),
        (["W2A8"], None, "one budget"),
    ):
        with pytest.raises(BudgetError, match=said):
            services.allocation.allocate(str(tiny_llama), candidates, bits, on_step=never)
    with pytest.raises(PrecisionError, match="9 weight bits"):
        services.allocation.allocate(str(tiny_llama), ["W9A8"], 3.0, on_step=never)


def test_the_command_line_writes_a_mix_for_calibrate(
    mixed: tuple[Services, Job, PrecisionMix],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    services, job, mix = mixed
    model, out = str(job.spec["model"]), tmp_path / "mix.json"
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    monkeypatch.setenv("ABQ_THREADS", "1")
    words = ["allocate", model, "--bits", "3.5", "--candidates", ",".join(CANDIDATES), "--data", str(text_file)]
    words += ["--segments", "2", "--seq-len", "32"]
    assert main([*words, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr().out
    answer = json.loads(printed)
    assert answer["precision"] == str(mix) and json.loads(out.read_text("utf-8")) == answer
    assert answer.keys() >= {"stored_bits", "information_bits", "weight_bytes", "predicted_kl", "uniform_kl", "mix"}
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Block 1" in shown and "self_attn.q_proj" in shown and f"{answer['predicted_kl']:.4f}" in shown

    calibrate = ["calibrate", model, "--method", "rtn", "--data", str(text_file), "--segments", "2", "--seq-len", "32"]
    assert main([*calibrate, "--precision", str(out), "--wait", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["state"] == "succeeded" and made["precision"] == str(mix)
    services.runs.delete(made["run"])

    both = [*words[:2], "--bits", "4", "--bit-operations", "24", "--candidates", "W4A4,W4A8", *words[6:]]
    assert main([*both, "--out", str(out), "--force", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["precision"].startswith("W4A") and 16 <= answer["bit_operations"] <= 24
    assert {one["precision"] for one in answer["mix"].values()} == {"W4A4", "W4A8"}
    assert main([*calibrate, "--precision", str(out), "--wait", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["state"] == "succeeded" and made["precision"] == answer["precision"]
    services.runs.delete(made["run"])

    other = tmp_path / "other.json"
    other.write_text(json.dumps({"precision": "W2A8mix-000000", "mix": {"0.q": {"precision": "W2A8", "weights": 1}}}))
    for precision, said in (
        (str(tmp_path / "missing.json"), "this file does not exist"),
        (str(other), "one of them was changed"),
        ("W2.5A8mix-000000", "No run has the mix"),
    ):
        assert main([*calibrate, "--precision", precision]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    for budget, said in (
        ([], "one budget"),
        (["--bits", "3", "--mib", "1"], "one budget"),
        (["--bits", "1"], "smallest possible is 2 bits"),
        (["--mib", "nan"], "--mib"),
        (["--bits", "3", "--bit-operations", "9"], "smallest possible is 16 bit operations"),
        (["--bits-per-parameter", "12", "--bit-operations", "9"], "per parameter and 9 bit operations per weight"),
        (["--bits", "3", "--bit-operations", "nan"], "above 0"),
        (["--bits", "3", "--out", "mix.txt"], "mix.txt"),
    ):
        assert main([*words[:2], *words[4:], *budget]) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert said in err


def test_figures_show_every_linear_and_escape_hostile_text(mixed: tuple[Services, Job, PrecisionMix]) -> None:
    mix = mixed[2]
    frame = pd.DataFrame(
        {
            "block": one.block,
            "tensor": one.name,
            "precision": str(one.precision),
            "stored_bits": one.precision.stored_bits,
            "bit_operations": one.precision.bit_operations,
            "kl": 0.1,
            "weights": one.weights,
        }
        for one in mix.linears
    )
    runs = pd.DataFrame(
        [(HOSTILE, HOSTILE, HOSTILE, 2.0, 0.5, 0.4), ("r-1", "W2A8", "rtn", 2.0, 3.0, 3.5)],
        columns=["run", "precision", "method", "stored_bits", "predicted_kl", "kl_mean"],
    )
    for dark in (False, True):
        cells, names = allocation_figure(frame, dark).data
        assert cells.z.size == len(mix.linears) == len(names.text)
        assert set(names.text) == {"W2", "W4", "W16"} & set(names.text)
        both = frame.assign(precision=["W4A4", "W4A8"] * (len(frame) // 2), bit_operations=[16, 32] * (len(frame) // 2))
        cells, names = allocation_figure(both, dark).data
        assert set(names.text) == {"W4A4", "W4A8"} and set(cells.z.flatten()) == {16, 32}
        drawn = prediction_figure(runs, dark)
        assert list(drawn.data[0].x) == list(drawn.data[0].y)  # where predictions come true
        for figure in (allocation_figure(frame.assign(tensor=HOSTILE, block=range(len(frame))), dark), drawn):
            assert "<script>" not in figure.to_json().replace("\\u003c", "<")
    assert not allocation_figure(frame.iloc[:0]).data and not prediction_figure(runs.iloc[:0]).data


def test_an_allocation_belongs_to_its_model() -> None:
    frame = pd.DataFrame({"block": [0], "tensor": ["q"], "precision": ["W2A8"]})
    kept = Mix("builtin", {"precision": "W2A8"}, frame).to_json()
    again = Mix.from_json(kept, "builtin")
    assert again is not None and again.content == {"precision": "W2A8"} and again.linears.equals(frame)
    assert Mix.from_json(kept, "another") is None and Mix.from_json("", "builtin") is None


def test_work_without_a_reader_ends_at_its_next_report() -> None:
    ended, go_on = threading.Event(), threading.Event()

    def work(report: Callable[[int], None]) -> None:
        try:
            report(1)
            go_on.wait(60)
            report(2)
        finally:
            ended.set()

    steps = iter(Steps[int](work))
    assert next(steps) == 1
    steps.close()
    go_on.set()
    assert ended.wait(60)
