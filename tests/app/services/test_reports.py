"""Reports: one file that loads nothing, with light and dark figures and escaped text."""

import json
import re
from pathlib import Path

import pandas
import pytest
from app_cases import SpecMaker, work_on

from app.runs.reports import _answer
from app.services import ServiceError, Services
from storage.jobs import Job

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def data_of(page: str) -> dict[str, dict[str, object]]:
    found = re.findall(r"<script type='application/json' data-for='([^']+)'>(.*?)</script>", page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_a_report_has_the_table_and_the_figures(finished: tuple[Services, Job], tmp_path: Path) -> None:
    services, job = finished
    page = services.reports.write([], tmp_path / "report.html").read_text("utf-8")
    assert job.run_id in page and "times smaller than 16-bit" in page and "--precision W4A4" in page
    figures = data_of(page)
    assert len(figures) >= 7
    for name, themes in figures.items():
        assert themes.keys() == {"light", "dark"} and themes["light"]["data"], name
        assert f"id='{name}'" in page
    names = {trace.get("name") for themes in figures.values() for trace in themes["light"]["data"]}
    assert {"Full", "Rounded", "Corrected"} <= names


def test_a_report_of_rtn_says_rounded_and_never_corrected(
    services: Services, tiny_spec: SpecMaker, tmp_path: Path
) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    page = services.reports.write([job.run_id], tmp_path / "report.html").read_text("utf-8")
    figures = data_of(page)
    names = {trace.get("name") for themes in figures.values() for trace in themes["light"]["data"]}
    assert len(figures) >= 7 and {"Full", "Rounded"} <= names
    assert "correct" not in page.split("<body>")[1].lower()


def test_a_report_loads_nothing(finished: tuple[Services, Job], tmp_path: Path) -> None:
    services, job = finished
    page = services.reports.write([job.run_id], tmp_path / "report.html").read_text("utf-8")
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=", page.split("<body>")[1])
    assert "default-src 'none'" in page


def test_hostile_text_is_escaped(services: Services, tiny_spec: SpecMaker, tmp_path: Path) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    services.runs.set_note(job.run_id, HOSTILE)
    page = services.reports.write([job.run_id], tmp_path / "report.html").read_text("utf-8")
    body = page.split("<body>")[1]
    assert "alert(1)" in body and "<script>alert" not in body and "<img" not in body


def test_without_a_finished_run_there_is_no_report(services: Services, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no finished runs"):
        services.reports.write([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_answer_compares_a_run_with_its_own_model() -> None:
    columns = ["run", "model", "precision", "method", "same_top", "weight_bytes"]
    rows = [
        ["", "small", "FP16", "none", None, 10],
        ["", "large", "FP16", "none", None, 1000],
        ["r-1", "large", "W4A8", "abq", 0.9, 250],
        ["r-2", "unknown", "W8A8", "abq", 0.99, 500],
    ]
    assert "W4A8 with abq keeps 90.0 % of the top tokens, and its weights are 4.0 times" in _answer(
        pandas.DataFrame(rows, columns=columns)
    )
