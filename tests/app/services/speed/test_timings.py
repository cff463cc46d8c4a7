"""Timing files: exported timings are imported unchanged, and other content is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from app_cases import settings_in

from app.files import OutputError
from app.services import Services, open_services
from app.services.errors import ServiceError
from app.services.speed import timings
from app.services.speed.timings import this_device
from app.web.tabs.speed.decode_profile import latest_profile, profile_answer, profile_table
from app.web.tabs.speed.measurements import READABLE, chosen_kernels, latest_decodes

ROOT = Path(__file__).parents[4]
Rows = list[dict[str, object]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Services:
    services = open_services(settings_in(tmp_path_factory.mktemp("measured")))
    services.throughput.time_kernels(["W2A8"], [(64, 96)], [1], threads=1)
    return services


@pytest.fixture
def exported(measured: Services, tmp_path: Path) -> Path:
    path = tmp_path / "timings.json"
    assert measured.timings.export(path, this_device()) == 4
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Services:
    return open_services(settings_in(tmp_path / "elsewhere"))


def test_exported_timings_are_imported_once(measured: Services, exported: Path, elsewhere: Services) -> None:
    assert elsewhere.timings.import_from(exported) == (4, 0)
    assert elsewhere.timings.import_from(exported) == (0, 4)
    here = [(r.created_at, r.device, r.values) for r in measured.storage.measurements.throughput()]
    assert [(r.created_at, r.device, r.values) for r in elsewhere.storage.measurements.throughput()] == here


def test_timings_of_an_older_version_are_recognized(elsewhere: Services, exported: Path, tmp_path: Path) -> None:
    content = json.loads(exported.read_text())
    for row in content["timings"]:
        for added_later in ("cold_iqr_us", "operations", "ceiling_gop_per_second"):
            row["values"].pop(added_later)
    older = tmp_path / "older.json"
    older.write_text(json.dumps(content))
    timings = [(datetime.fromisoformat(t["created"]), t["device"], t["values"]) for t in content["timings"]]
    elsewhere.storage.measurements.add_timings(timings)
    assert elsewhere.timings.import_from(older) == (0, 4)
    empty = open_services(settings_in(tmp_path / "empty"))
    assert empty.timings.import_from(older) == (4, 0)
    assert {r.values["operations"] for r in empty.storage.measurements.throughput()} == {None}


def test_operations_and_their_ceiling_are_exported(exported: Path, elsewhere: Services) -> None:
    content = json.loads(exported.read_text())
    set_value("operations", 2**40)(content["timings"])
    set_value("ceiling_gop_per_second", 9.25e6)(content["timings"])
    exported.write_text(json.dumps(content))
    assert elsewhere.timings.import_from(exported) == (4, 0)
    kept = [
        (r.values["operations"], r.values["ceiling_gop_per_second"])
        for r in elsewhere.storage.measurements.throughput()
    ]
    assert sorted(kept, key=str) == [(2**40, 9.25e6), *[(None, None)] * 3]


def test_only_the_given_device_is_exported(measured: Services, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no timing of 'H200' yet"):
        measured.timings.export(tmp_path / "none.json", "H200")


def test_an_existing_file_is_not_overwritten(measured: Services, exported: Path) -> None:
    before = exported.read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        measured.timings.export(exported, this_device())
    assert exported.read_bytes() == before


def set_value(name: str, value: object) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[-1]["values"][name] = value  # type: ignore[index]

    return change


def set_row(name: str, value: object) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[-1][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_value("kind", "guess"), "guess"),
        (set_value("median_us", "fast"), "median_us is 'fast'"),
        (set_value("median_us", -1), "median_us is '-1'"),
        (set_value("n", 0), "n is '0'"),
        (set_value("operations", -2), "operations is '-2'"),
        (set_value("precision", "W" * 201), "precision is"),
        (set_value("speedup", {"torch-bf16": "<b>"}), "speedup is"),
        (set_value("speedup", {"$float": 1.5}), "speedup is"),
        (set_value("median_us", 10**400), "median_us is"),
        (set_row("device", 7), "lacks a device"),
        (set_row("created", "2026-01-01T00:00:00"), "time zone"),
        (set_row("created", "yesterday"), "cannot be read"),
        (set_row("values", []), "cannot be read"),
    ],
)
def test_a_wrong_timing_is_named_and_nothing_is_stored(
    exported: Path, elsewhere: Services, change: Callable[[Rows], None], says: str
) -> None:
    content = json.loads(exported.read_text())
    change(content["timings"])
    exported.write_text(json.dumps(content))
    with pytest.raises(ServiceError, match=r"Timing 4 of .*Nothing was imported") as caught:
        elsewhere.timings.import_from(exported)
    assert says in str(caught.value)
    assert not elsewhere.storage.measurements.throughput()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "is not JSON"),
        ("{}", "has no timings"),
        ('{"format": "abq-timings-1", "timings": 3}', "has no timings"),
        ('{"format": "abq-timings-1", "timings": [' + ",".join(["0"] * 10_001) + "]}", "10,001 timings"),
        ('{"format": "abq-timings-1", "timings": [' + " " * (16 << 20) + "]}", "limit is 16,777,216"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, elsewhere: Services, text: str, says: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ServiceError, match=says):
        elsewhere.timings.import_from(path)


def test_timings_name_their_machine(measured: Services, exported: Path, elsewhere: Services, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    content = json.loads(exported.read_text())
    for row in content["timings"]:
        row["device"] = "AMD EPYC"
    other.write_text(json.dumps(content))
    elsewhere.timings.import_from(exported)
    elsewhere.timings.import_from(other)
    assert elsewhere.timings.frame()["machine"].value_counts().to_dict() == {this_device(): 4, "AMD EPYC": 4}


def test_shipped_timings_are_of_other_machines_and_not_in_the_database(elsewhere: Services) -> None:
    frame = elsewhere.timings.frame(shipped=True)
    assert set(frame["kind"]) == {"kernel", "decode"}
    assert this_device() not in set(frame["machine"])
    assert set(frame.loc[frame["kind"].eq("kernel"), "engine"]) == {"abq"}
    assert frame.loc[frame["kind"].eq("kernel"), "exact"].all()
    assert elsewhere.timings.frame().empty
    assert not elsewhere.storage.measurements.throughput()


def test_shipped_timings_of_this_processor_are_those_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads(next(timings.SHIPPED.glob("*.json")).read_text())
    machine = content["timings"][0]["device"]
    monkeypatch.setattr(timings, "this_device", lambda: machine)
    timings.shipped_timings.cache_clear()
    shipped = {record.device for record in timings.shipped_timings()}
    assert f"another {machine}" in shipped and machine not in shipped
    timings.shipped_timings.cache_clear()


def test_shipped_files_are_what_the_benchmarks_measured(tmp_path: Path) -> None:
    ship([str(path) for path in (ROOT / "benchmarks/results").glob("[cg]pu-*.json")], tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in timings.SHIPPED.iterdir()}


def test_a_gpus_files_can_be_shipped(tmp_path: Path) -> None:
    """Fields of the GPU benchmarks are converted: limits are left out, and decoding has one thread."""
    kernel = dict(next(row.values for row in timings.shipped_timings() if row.values["kind"] == "kernel"))
    del kernel["kind"]
    rows = [{**kernel, "limit": "memory", "limit_share": 0.7}, {**kernel, "engine": "cublas-fp16"}]
    column = {"column": "W2A8", "path": "cuda-binary", "tokens_per_second": 900.0, "first_token_seconds": 0.02}
    decode = {"model": "llama-7b", "tokens": 1024, "columns": [{**column, "weight_bytes": 2**31, "peak_bytes": 2**32}]}
    machine = {"date": "2026-11-22", "device": "NVIDIA H200"}
    files = [tmp_path / "kernels.json", tmp_path / "decode.json"]
    for path, content in zip(files, ({"measurements": rows}, decode), strict=True):
        path.write_text(json.dumps({"machine": machine, **content}))
    ship([str(path) for path in files], tmp_path)
    found = timings.read_timings(tmp_path / "nvidia-h200.json")
    assert [(device, values["kind"]) for _, device, values in found] == [
        ("NVIDIA H200", "decode"),
        ("NVIDIA H200", "kernel"),
    ]


def ship(words: list[str], folder: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/ship_timings.py"), *words, "--out", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_a_figure_shows_the_cases_of_the_form() -> None:
    kernels = pd.DataFrame(
        [(p, n, 64, m) for p in ("W2A8", "W4A4") for n in (32, 64) for m in (1, 2, 4, 8)],
        columns=["precision", "n", "k", "m"],
    )
    named = chosen_kernels(kernels, ["W4A4"], ["64x64", "1x1"], ["1", "8"])
    assert named.to_numpy().tolist() == [["W4A4", 64, 64, 1], ["W4A4", 64, 64, 8]]
    assert len(chosen_kernels(kernels, ["W8A8"], [], [])) == READABLE
    assert len(chosen_kernels(kernels.head(3), [], [], [])) == 3


def test_models_of_another_machine_are_shown_if_it_lacks_this_one() -> None:
    measured = pd.DataFrame(
        [("decode", "llama-7b", "W2A8", 900.0), ("decode", "llama-1b", "W2A8", 1.0)],
        columns=["kind", "model", "column", "tokens_per_second"],
    )
    assert latest_decodes(measured, "builtin").empty
    assert latest_decodes(measured, "builtin", any_model=True)["model"].tolist() == ["llama-7b"]
    assert latest_decodes(measured, "llama-1b", any_model=True)["model"].tolist() == ["llama-1b"]


def test_profiles_travel_and_hostile_ones_are_refused(elsewhere: Services, tmp_path: Path) -> None:
    part = {"kind": "linears", "seconds": 0.1, "nbytes": 2**20}
    values = {"column": "W4A8", "path": "abq", "model": "builtin", "positions": 9, "threads": 2, "parts": [part]}
    row: dict[str, Any] = {"created": "2026-11-29T00:00:00+00:00", "device": "AMD EPYC"}
    path = tmp_path / "profile.json"

    def give(**changes: object) -> None:
        whole = {"kind": "profile", "seconds": 0.2, "read_gb_per_second": 20.0, **values, **changes}
        path.write_text(json.dumps({"format": timings.FORMAT, "timings": [{**row, "values": whole}]}))

    for name, wrong in (
        ("seconds", 0),
        ("read_gb_per_second", 0),
        ("parts", []),
        ("parts", [part] * 21),
        ("parts", [{**part, "seconds": "fast"}]),
        ("parts", [{**part, "more": 1}]),
        ("parts", "linears"),
    ):
        give(**{name: wrong})
        with pytest.raises(ServiceError, match=f"{name} is"):
            elsewhere.timings.import_from(path)
    give()
    assert elsewhere.timings.import_from(path) == (1, 0)
    stored = latest_profile(elsewhere.timings.frame(), "builtin", "W2A8")
    assert stored is not None and stored["parts"] == [part]
    assert latest_profile(elsewhere.timings.frame(), "other", "W4A8") is None
    assert "50.0 %" in profile_table(stored) and "linears" in profile_answer(stored)
