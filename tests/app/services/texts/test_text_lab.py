"""Which text to calibrate on: a run per text, and its KL on every text, measured once."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from app_cases import SpecMaker, settings_in, work_on

from app.cli.main import main
from app.figures.text_matrix import text_matrix_figure
from app.services import Services, open_services
from app.services.errors import ServiceError
from app.services.evaluation import EvaluationText
from app.services.texts.text_lab import COLUMNS, MOST_TEXTS, short_names
from app.web.tabs.compare.text_lab_panel import _picture, _state

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "other.txt"
    path.write_text("def copy(source, target): target.write_bytes(source.read_bytes()) # 1 2 3\n" * 400, "utf-8")
    return path


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, tiny_spec: SpecMaker, text_file: Path, other_text: Path
) -> tuple[Services, list[str], pd.DataFrame]:
    """Services whose lab has calibrated and measured two texts. Tests must not modify it."""
    services = open_services(settings_in(tmp_path_factory.mktemp("lab")))
    lab, texts = services.text_lab, [str(text_file), str(other_text)]
    plan = lab.plan(tiny_spec(), texts)
    assert lab.matrix(plan)["run"].eq("").all() and [one.spec.data for one in plan] == texts
    for run in services.sweeps.queue(plan):
        assert work_on(services, services.jobs.get(run)).state == "succeeded"
    return services, texts, lab.measure(lab.plan(tiny_spec(), texts))


def test_every_pair_is_what_an_evaluation_measures(measured: tuple[Services, list[str], pd.DataFrame]) -> None:
    services, _, cells = measured
    assert list(cells.columns) == COLUMNS and len(cells) == 4 and cells["run"].nunique() == 2
    for row in cells.to_dict("records"):
        again = services.evaluation.evaluate(row["run"], EvaluationText(row["evaluated_on"], held_out=True))
        assert row["kl_mean"] == pytest.approx(again.kl_mean) and row["perplexity"] == pytest.approx(again.perplexity)
        assert services.runs.get(row["run"]).spec["data"] == row["calibrated_on"]
        assert again.text.split == "evaluation"


def test_a_second_call_measures_nothing(
    measured: tuple[Services, list[str], pd.DataFrame], tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, texts, cells = measured
    plan = services.text_lab.plan(tiny_spec(), texts)
    assert all(one.state == "succeeded" for one in plan)
    monkeypatch.setattr(services.evaluation, "evaluate", None)
    pd.testing.assert_frame_equal(services.text_lab.measure(plan), cells)


def test_a_cell_that_read_less_text_than_its_column_is_measured_again(
    measured: tuple[Services, list[str], pd.DataFrame], tiny_spec: SpecMaker
) -> None:
    services, texts, cells = measured
    run = cells["run"].iloc[0]
    services.evaluation.evaluate(run, EvaluationText(texts[1], segments=2, held_out=True))
    plan = services.text_lab.plan(tiny_spec(), texts)
    short = services.text_lab.matrix(plan)
    assert short["kl_mean"].isna().sum() == 1
    pd.testing.assert_frame_equal(services.text_lab.measure(plan), cells)


@pytest.mark.parametrize("count", [0, 1, MOST_TEXTS + 1])
def test_other_numbers_of_texts_are_refused(
    count: int, measured: tuple[Services, list[str], pd.DataFrame], tiny_spec: SpecMaker
) -> None:
    texts = [f"text-{number}.txt" for number in range(count)] * 2
    with pytest.raises(ServiceError, match=f"{count} texts are chosen: choose 2 to {MOST_TEXTS}"):
        measured[0].text_lab.plan(tiny_spec(), texts)


def test_the_command_prints_the_matrix(
    measured: tuple[Services, list[str], pd.DataFrame],
    tiny_spec: SpecMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    services, texts, cells = measured
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    monkeypatch.setenv("ABQ_THREADS", "1")
    spec = tiny_spec()
    words = ["texts", spec.model, "--precision", str(spec.precision), "--method", spec.method, "--on", ",".join(texts)]
    words += ["--segments", str(spec.segments), "--seq-len", str(spec.seq_len), "--epochs", str(spec.active_epochs)]
    assert main([*words, "--json"]) == 0
    told = pd.DataFrame(json.loads(capsys.readouterr().out)["texts"])
    pd.testing.assert_frame_equal(told, cells)
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "text.txt" in printed and "other.txt" in printed and f"{cells['kl_mean'].iloc[1]:.4f} nats" in printed
    assert main([*words[:-6], "--on", "builtin"]) == 2 and "choose 2 to" in capsys.readouterr().err


def test_the_figure_compares_the_rows_of_a_column(measured: tuple[Services, list[str], pd.DataFrame]) -> None:
    _, texts, cells = measured
    kl = cells.pivot(index="calibrated_on", columns="evaluated_on", values="kl_mean").loc[texts, texts].to_numpy()
    for dark in (False, True):
        figure = text_matrix_figure(cells, dark)
        np.testing.assert_allclose(np.array(figure.data[0].z, float), kl / kl.min(0))
        outlined = [(shape.x0 + 0.49, shape.y0 + 0.49) for shape in figure.layout.shapes]
        assert outlined == [(column, int(kl[:, column].argmin())) for column in range(2)]
    hostile = cells.replace({texts[0]: HOSTILE})
    assert "<script>" not in text_matrix_figure(hostile).to_json().replace("\\u003c", "<")
    assert not text_matrix_figure(cells.assign(kl_mean=np.nan)).data


def test_the_page_shows_the_matrix_with_short_names(
    measured: tuple[Services, list[str], pd.DataFrame], tiny_spec: SpecMaker
) -> None:
    services, texts, cells = measured
    plan = services.text_lab.plan(tiny_spec(), texts)
    assert _state(plan, cells) == "2 of 2 texts have a finished run; 4 of 4 pairs are measured."
    picture = _picture(plan, cells, dark=False)
    assert "other.txt" in picture and texts[1] not in picture
    assert _picture(plan, cells.assign(kl_mean=np.nan), dark=False) == ""
    assert short_names(["builtin", "/a/x.txt", "/b/x.txt", "/b/y.txt"]) == {
        "builtin": "builtin", "/a/x.txt": "/a/x.txt", "/b/x.txt": "/b/x.txt", "/b/y.txt": "y.txt"
    }  # fmt: skip
