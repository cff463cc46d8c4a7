"""Limits of a visitor, bounded memory for models, secrets, and the separation of two visitors."""

import contextlib
import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from app_cases import SpecMaker, settings_in
from gradio.state_holder import SessionState
from gradio_client import Client
from gradio_client.exceptions import AppError
from served import served

from app.secrets import HIDDEN, redacted, without_secrets
from app.services import ServiceError, Services, open_services
from app.services.registry import ModelRegistry
from app.web import dashboard
from app.web.limits import MAX_NEW_TOKENS, MAX_PROMPT_CHARACTERS, MAX_QUEUED_JOBS, TEXTS_PER_MINUTE, LimitError, Limits

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it


def test_text_is_limited_in_length_and_rate(services: Services) -> None:
    time = [0.0]
    limits = Limits(services.storage.jobs, lambda: time[0])
    for columns, prompt, tokens, message in (
        ([], "a", 8, "0 columns"),
        (["full"] * 5, "a", 8, "5 columns"),
        (["full"], "a" * (MAX_PROMPT_CHARACTERS + 1), 8, "20,001 characters"),
        (["full"], "a", MAX_NEW_TOKENS + 1, "1,025 new tokens"),
        (["full"], "a", float("nan"), "nan new tokens"),
    ):
        with pytest.raises(LimitError, match=message):
            limits.check_text(None, columns, prompt, tokens)
    for _ in range(TEXTS_PER_MINUTE):
        limits.check_text(None, ["full"], "a", 8)
    with pytest.raises(LimitError, match="Try again in 61 seconds"):
        limits.check_text(None, ["full"], "a", 8)
    time[0] = 60.0
    limits.check_text(None, ["full"], "a", 8)


def test_the_queue_is_limited(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.storage.jobs, "counts", lambda: {"queued": MAX_QUEUED_JOBS - 1, "failed": 9999})
    Limits(services.storage.jobs).check_queue()
    with pytest.raises(LimitError, match="999 jobs are queued"):
        Limits(services.storage.jobs).check_queue(2)


def test_models_are_evicted_before_the_next_one_is_loaded(
    services: Services, tiny_llama: Path, tiny_opt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(p.numel() * 4 for p in services.registry.full(str(tiny_llama)).model.parameters())
    registry = ModelRegistry(services.settings, services.storage.runs, max_bytes=int(1.5 * size))
    first = registry.full(str(tiny_llama))
    assert registry.full(str(tiny_llama)) is first
    held: list[int] = []
    monkeypatch.setattr(
        "abq_core.models.loading.load_model", lambda ref, device: held.append(len(registry._loaded)) or first
    )
    registry.full(str(tiny_opt))
    assert held == [0]  # the first model was evicted before the second was loaded
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000, "total": 1000})())
    with pytest.raises(ServiceError, match="GiB of memory"):
        ModelRegistry(services.settings, services.storage.runs).full(str(tiny_llama))


def test_secrets_are_removed_from_worker_environments_and_logs() -> None:
    given = {
        "HF_TOKEN": "hf_" + "a" * 30, "MY_API_KEY": "key-12345678", "DB_PASSWORD": "short", "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "false", "ABQ_DATA_DIR": "/data", "AWS_SECRET_ACCESS_KEY": "x" * 20,
    }  # fmt: skip
    kept = without_secrets(given)
    assert set(kept) == {
        "PATH", "TOKENIZERS_PARALLELISM", "ABQ_DATA_DIR", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_TOKEN_PATH",
    }  # fmt: skip
    text = f"401 for {given['HF_TOKEN']} and hf_{'b' * 30}, key-12345678; a short word stays"
    assert redacted(text, given) == f"401 for {HIDDEN} and {HIDDEN}, {HIDDEN}; a short word stays"


def test_workers_start_without_tokens(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.jobs.executors import local

    seen: dict[str, str] = {}

    class Started:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str], **options: object) -> None:
            seen.update(env)

    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    monkeypatch.setattr(local.subprocess, "Popen", Started)
    local.Supervisor(services.settings, services.storage.jobs)._start_worker()
    assert "HF_TOKEN" not in seen and seen["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    assert seen["ABQ_DATA_DIR"] == str(services.settings.data_dir)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(open_services(settings_in(tmp_path_factory.mktemp("limits")))) as address:
        yield address


def test_visitors_cannot_see_prompts_of_others(address: str, tiny_llama: Path) -> None:
    secrets = ["open the amber door", "count the violet keys"]
    clients = [Client(address, verbose=False) for _ in secrets]
    got: list[list[object]] = [[], []]

    def write(index: int) -> None:
        job = clients[index].submit(["full"], secrets[index], 12, 0.0, 0, str(tiny_llama), api_name="/generate")
        got[index] = list(job)

    threads = [threading.Thread(target=write, args=[index]) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got[0]) > 1 and len(got[1]) > 1 and clients[0].session_hash != clients[1].session_hash
    alone = [
        list(c.submit(["full"], s, 12, 0.0, 0, str(tiny_llama), api_name="/generate"))
        for c, s in zip(clients, secrets, strict=True)
    ]
    assert got == alone  # the streams are complete and not mixed
    public = [httpx.get(f"{address}{path}", timeout=300) for path in ("config", "", "gradio_api/info", "abq/runs.csv")]
    seen = " ".join(answer.text for answer in public)
    other = ""
    stream = httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash=another-visitor", timeout=300)
    with contextlib.suppress(httpx.RemoteProtocolError), stream as answer:  # the stream ends after its message
        for text in answer.iter_text():
            other += text
    for end in ("models", "jobs", "runs"):
        seen += json.dumps(clients[1].predict(api_name=f"/{end}"))
    assert "session_not_found" in other
    assert not any(secret in seen + other for secret in secrets)


def test_the_number_of_browser_sessions_in_memory_is_limited(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "MAX_SESSIONS", 3)

    def sessions() -> int:
        return sum(type(found) is SessionState for found in gc.get_objects())

    gc.collect()
    before = sessions()
    with served(services) as address, httpx.Client(base_url=address, timeout=300) as client:
        for _ in range(8):
            asked = client.post("gradio_api/call/models", json={"data": []}).json()
            assert "builtin" in client.get(f"gradio_api/call/models/{asked['event_id']}").text
        gc.collect()
        assert 1 <= sessions() - before <= 3


def test_the_page_refuses_too_many_columns_and_jobs(
    address: str, tiny_llama: Path, tiny_spec: SpecMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match="5 columns"):
        client.predict(["full"] * 5, "def", 4, 0.0, 0, str(tiny_llama), api_name="/generate")
    monkeypatch.setattr("app.web.limits.MAX_QUEUED_JOBS", 0)
    with pytest.raises(AppError, match="0 jobs are queued"):
        client.predict(str(tiny_llama), "W4A4", "rtn", str(text_file), 2, 32, -1, 0, api_name="/submit")


def test_metrics(address: str) -> None:
    answer = httpx.get(f"{address}metrics", timeout=300)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    types = [line.removeprefix("# TYPE ") for line in answer.text.splitlines() if line.startswith("# TYPE ")]
    assert types == ["abq_jobs gauge", "abq_workers_alive gauge", "abq_http_requests_total counter"]
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    assert {name for name in values if "http" not in name} == {
        "abq_workers_alive",
        *(f'abq_jobs{{state="{state}"}}' for state in ("queued", "running", "succeeded", "failed", "cancelled")),
    }
    assert values['abq_jobs{state="queued"}'] == values["abq_workers_alive"] == 0
    assert values['abq_http_requests_total{answer="2xx"}'] >= 1
    httpx.get(f"{address}nowhere", timeout=300)
    assert 'answer="4xx"' in httpx.get(f"{address}metrics", timeout=300).text
