"""Visitors of one page: separation from each other, and limits."""

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

from app.services import Services, open_services
from app.web import dashboard

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it


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
            submitted = client.post("gradio_api/call/models", json={"data": []}).json()
            assert "builtin" in client.get(f"gradio_api/call/models/{submitted['event_id']}").text
        gc.collect()
        assert 1 <= sessions() - before <= 3


def test_the_page_refuses_too_many_columns_and_jobs(
    address: str, tiny_llama: Path, tiny_spec: SpecMaker, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(address, verbose=False)
    with pytest.raises(AppError, match="5 columns"):
        client.predict(["full"] * 5, "def", 4, 0.0, 0, str(tiny_llama), api_name="/generate")
    monkeypatch.setattr("app.web.limits.Limits.max_queued", 0)
    with pytest.raises(AppError, match="0 jobs are queued"):
        client.predict(str(tiny_llama), "W4A4", "rtn", str(text_file), 2, 32, -1, 0, api_name="/submit")
