"""The page's endpoints through gradio_client, its downloads, and refused requests."""

import asyncio
import contextlib
import gzip
import http.client
import io
import json
import logging
import socket
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from app_cases import SpecMaker, settings_in, work_on
from gradio_client import Client
from gradio_client.exceptions import AppError
from served import served

from app.services import Services, open_services
from app.web import dashboard
from app.web.dashboard import PortInUseError, launch
from app.web.downloads import PLOTLY
from storage.jobs import Job

PUBLIC = {
    "/models", "/explore", "/submit", "/jobs", "/job", "/cancel", "/resume", "/runs", "/diagnostics", "/evaluate",
    "/generate", "/throughput", "/bench", "/note", "/delete", "/allocate",
}  # fmt: skip


pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it


@pytest.fixture(scope="module")
def site(finished: tuple[Services, Job]) -> Iterator[str]:
    """The page with one finished run, which tests do not change."""
    with served(finished[0]) as address:
        yield address


@pytest.fixture(scope="module")
def client(site: str) -> Client:
    return Client(site, verbose=False)


@pytest.fixture(scope="module")
def writable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, Client]]:
    """A separate page for tests that change data."""
    services = open_services(settings_in(tmp_path_factory.mktemp("writable")))
    with served(services) as address:
        yield services, Client(address, verbose=False)


def fetch(address: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of a request with these headers."""
    request = urllib.request.Request(address, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_public_endpoints(client: Client) -> None:
    described = client.view_api(return_format="dict", print_info=False)
    assert set(described["named_endpoints"]) == PUBLIC
    assert not described["unnamed_endpoints"]


def test_models_runs_jobs_and_diagnostics(client: Client, finished: tuple[Services, Job]) -> None:
    job = finished[1]
    assert client.predict(api_name="/models") == ["builtin", job.spec["model"]]
    row = next(row for row in client.predict(api_name="/runs") if row["run"] == job.run_id)
    assert row["precision"] == "W4A4" and row["perplexity"] > 1 and row["stored_bits"] == 4
    assert client.predict(api_name="/jobs")[0]["state"] == "succeeded"
    assert client.predict(job.run_id, api_name="/job")["log"]
    blocks = client.predict(job.run_id, "blocks", api_name="/diagnostics")
    assert {block["lens"] for block in blocks} == {"rounded", "corrected"}


def test_rows_of_jobs_and_runs_have_iso_dates_and_null_for_missing_values(
    client: Client, finished: tuple[Services, Job]
) -> None:
    services, job = finished
    for endpoint, frame in (("/jobs", services.jobs.frame()), ("/runs", services.runs.frame())):
        rows = client.predict(api_name=endpoint)
        assert rows == json.loads(frame.to_json(orient="records", date_format="iso"))
        assert [list(row) for row in rows] == [list(frame.columns)] * len(frame)
        created = datetime.fromisoformat(next(row for row in rows if row["run"] == job.run_id)["created"])
        assert abs(created - job.created_at) < timedelta(milliseconds=1)
        assert [[row[name] is None for name in frame] for row in rows] == frame.isna().to_numpy().tolist()
    assert client.predict(api_name="/jobs")[0]["eta_seconds"] is None


def test_explore_returns_a_ratio_for_every_linear(client: Client, tiny_llama: Path) -> None:
    linears = client.predict(str(tiny_llama), "W2*A8", api_name="/explore")
    assert {row["block"] for row in linears} == {0, 1}
    assert all(row["weight_snr_db"] > 0 for row in linears)


def test_text_streams_in_every_column(client: Client, finished: tuple[Services, Job], tiny_llama: Path) -> None:
    columns = ["full", finished[1].run_id]
    streaming = client.submit(columns, "def open", 4, 0.0, 0, str(tiny_llama), api_name="/generate")
    answers = list(streaming)
    assert len(answers) > 1
    assert set(answers[-1]) == set(columns)


def test_an_evaluation_and_a_kernel_timing_are_stored(
    writable: tuple[Services, Client], tiny_llama: Path, text_file: Path
) -> None:
    services, client = writable
    scores = client.predict(str(tiny_llama), str(text_file), 2, 32, api_name="/evaluate")
    assert scores["method"] == "none" and scores["perplexity"] > 1
    assert len(services.runs.frame()) == 1
    measured = client.predict(["W2A8"], ["64x64"], [1], 1, api_name="/bench")
    assert any(row["engine"] == "abq" and row["exact"] for row in measured)
    assert len(client.predict(api_name="/throughput")) == len(measured)


def test_an_allocated_mix_is_submitted(writable: tuple[Services, Client], tiny_llama: Path, text_file: Path) -> None:
    services, client = writable
    chosen = client.predict(str(tiny_llama), 3.0, ["W2A8", "W4A8"], api_name="/allocate")
    assert "mix-" in chosen["precision"] and chosen["stored_bits"] <= 3 and chosen["predicted_kl"] > 0
    form = ("rtn", str(text_file), 2, 32, -1, 0)
    made = client.predict(str(tiny_llama), json.dumps(chosen), *form, api_name="/submit")
    assert services.runs.get(made["run"]).precision == chosen["precision"]
    with pytest.raises(AppError, match="smallest possible is 2 bits"):
        client.predict(str(tiny_llama), 1.0, ["W2A8", "W4A8"], api_name="/allocate")
    with pytest.raises(AppError, match="another model"):
        client.predict("builtin", json.dumps(chosen), *form, api_name="/submit")
    client.predict(made["run"], api_name="/delete")


def test_the_life_of_a_job(writable: tuple[Services, Client], tiny_spec: SpecMaker, text_file: Path) -> None:
    services, client = writable

    def shown(endpoint: str, column: str) -> list[object]:
        return [row[column] for row in client.predict(api_name=endpoint) if row["run"] == made["run"]]

    spec = tiny_spec()
    made = client.predict(spec.model, "W2*A8", "rtn", str(text_file), 2, 32, -1, 0, api_name="/submit")
    assert made["state"] == "queued" and shown("/jobs", "state") == shown("/runs", "state") == ["queued"]
    assert client.predict(made["job"], api_name="/cancel") == "cancelled" and shown("/jobs", "state") == ["cancelled"]
    assert client.predict(made["job"], api_name="/resume") == "queued" and shown("/jobs", "state") == ["queued"]
    work_on(services, services.jobs.get(made["job"]))
    client.predict(made["run"], "a note", api_name="/note")
    assert shown("/runs", "note") == [services.runs.get(made["run"]).note] == ["a note"]
    client.predict(made["run"], api_name="/delete")
    assert shown("/runs", "run") == shown("/jobs", "run") == []
    assert made["run"] not in set(services.runs.frame()["run"])


@pytest.mark.parametrize(
    ("endpoint", "arguments", "message"),
    [
        ("/explore", ["builtin", "W9A8"], "9 weight bits"),
        ("/explore", ["/nowhere/at/all", "W2A8"], "nowhere"),
        ("/submit", ["builtin", "W2A8", "magic", "builtin", 2, 32, -1, 0], "magic"),
        ("/job", ["r-0000000000"], "r-0000000000"),
        ("/diagnostics", ["../../etc", "blocks"], "run"),
        ("/bench", [["W2A8"], ["64"], [1], 1], "shape"),
    ],
)
def test_invalid_input_is_answered_with_a_message(
    client: Client, endpoint: str, arguments: list[object], message: str
) -> None:
    with pytest.raises(AppError, match=message) as caught:
        client.predict(*arguments, api_name=endpoint)
    assert "Traceback" not in str(caught.value)


def test_an_empty_prompt_is_answered_with_a_message(client: Client, tiny_llama: Path) -> None:
    with pytest.raises(AppError, match="prompt"):
        client.predict(["full", "W2A8"], "", 4, 0.0, 0, str(tiny_llama), api_name="/generate")


def test_downloads(site: str, finished: tuple[Services, Job], tiny_llama: Path) -> None:
    job = finished[1]
    for path, column in [
        (f"run/{job.run_id}/blocks.csv", "cosine"),
        (f"run/{job.run_id}/attention_heads.csv?block=1", "kl_corrected"),
        (f"job/{job.id}/losses.csv", "term"),
        (f"explore/linears.csv?model={tiny_llama}&precision=W4A4", "weight_snr_db"),
        (f"lens/bit-planes.csv?model={tiny_llama}&precision=W4A4&block=1&tensor=mlp.up_proj", "code"),
        (f"lens/level-sets.csv?model={tiny_llama}&precision=W4A4&block=1&tensor=mlp.up_proj&own=-1+0+2", "snr_db"),
        (f"lens/transform.csv?model={tiny_llama}&precision=W4A4&block=1&tensor=mlp.up_proj", "kurtosis"),
        ("runs.csv", "perplexity"),
    ]:
        status, body = fetch(f"{site}abq/{path}")
        assert status == 200, body
        assert column in body.decode().splitlines()[0].split(",")
    status, body = fetch(f"{site}abq/report.html?runs={job.run_id}")
    assert status == 200 and b"<html" in body
    status, body = fetch(f"{site}abq/run/{job.run_id}.zip")
    assert status == 200
    names = set(zipfile.ZipFile(io.BytesIO(body)).namelist())
    files = {"spec.json", "evaluation.json", "blocks/000.safetensors", "diagnostics/blocks.parquet"}
    assert {f"{job.run_id}/{name}" for name in files} <= names


def test_scripts_are_compressed_for_browsers(site: str) -> None:
    request = urllib.request.Request(f"{site}abq/plotly.min.js", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
        assert answer.headers["Content-Encoding"] == "gzip"
    plain = gzip.decompress(body)
    assert plain == PLOTLY.read_bytes() and len(body) < 0.35 * len(plain)


def test_an_export_of_the_page_is_downloaded(site: str, finished: tuple[Services, Job]) -> None:
    services, run = finished[0], finished[1].run_id
    services.exports.keep(run, "transformers", None, lambda done, total: None)
    status, body = fetch(f"{site}abq/export/{run}/transformers.zip")
    assert status == 200
    assert f"{run}-transformers/model.abq.safetensors" in zipfile.ZipFile(io.BytesIO(body)).namelist()


@pytest.mark.parametrize(
    "path",
    [
        "run/..%2f..%2fabq.sqlite3/blocks.csv",
        "run/r-00000000/spec.csv",
        "run/r-00000000/attention_heads.csv",
        "explore/spec.csv",
        "lens/spec.csv",
        "lens/level-sets.csv?model=builtin&precision=W4A4&tensor=mlp.up_proj&own=1",
        "lens/bit-planes.csv?model=builtin&precision=W4A4&block=-1&tensor=mlp.up_proj",
        "lens/bit-planes.csv?model=builtin&precision=W4A4&row=1e9&tensor=mlp.up_proj",
        "job/1/losses.csv",
        "run/..%2f..%2fabq.zip",
        "run/r-00000000.zip",
        "export/r-00000000/gguf.zip",
        "export/..%2f..%2fx/..%2f..%2fabq.zip",
    ],
)
def test_downloads_accept_no_paths(site: str, path: str) -> None:
    status, body = fetch(f"{site}abq/{path}")
    assert status == 404
    assert b"Traceback" not in body


def test_other_sites_and_host_names_are_refused(site: str, writable: tuple[Services, Client]) -> None:
    call = f"{site}gradio_api/call/models"
    ask = json.dumps({"data": []}).encode()
    kind = {"Content_Type": "application/json"}
    assert fetch(call, ask, **kind)[0] == 200
    assert fetch(call, ask, **kind, Origin=site.rstrip("/"), Sec_Fetch_Site="same-origin")[0] == 200
    assert fetch(call, ask, **kind, Origin="https://evil.example")[0] == 403
    assert fetch(call, ask, **kind, Origin="null")[0] == 403
    for sent in ("cross-site", "same-site"):
        assert fetch(call, ask, **kind, Sec_Fetch_Site=sent)[0] == 403
    assert fetch(call, ask, **kind, Host="evil.example")[0] == 400
    assert fetch(site, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200


def test_a_body_that_declares_a_large_size_is_refused(site: str) -> None:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(site).netloc)
    connection.putrequest("POST", "/gradio_api/call/models")
    connection.putheader("Content-Length", str(50 << 20))
    connection.endheaders()
    with contextlib.closing(connection):
        assert connection.getresponse().status == 413


def test_a_large_body_without_a_length_is_refused(site: str) -> None:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(site).netloc)
    chunks = (b"x" * 65536 for _ in range(17))  # 64 KiB more than the limit
    connection.request(
        "POST", "/gradio_api/call/models", chunks, {"Content-Type": "application/json"}, encode_chunked=True
    )
    with contextlib.closing(connection):
        assert connection.getresponse().status == 413


def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUseError, match="another"):
        launch(settings_in(tmp_path), "127.0.0.1", taken.getsockname()[1])


def test_responses_that_shutdown_cancels_are_not_logged_as_errors() -> None:
    def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
        raised = None if error is None else (type(error), error, None)
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, (), raised)

    assert dashboard.is_shutdown_cancellation(record("Exception in ASGI application", asyncio.CancelledError()))
    assert dashboard.is_shutdown_cancellation(record("Cancel 2 running task(s), timeout graceful shutdown exceeded"))
    assert not dashboard.is_shutdown_cancellation(record("Exception in ASGI application", ValueError("no")))
