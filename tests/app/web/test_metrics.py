"""The Prometheus metrics of a page."""

from collections.abc import Iterator
from datetime import timedelta

import httpx
import prometheus_client
import pytest
from app_cases import SpecMaker, settings_in
from served import served

from app.clock import now
from app.services import Services, open_services
from app.web.metrics import JobsCollector, RequestCounter

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(open_services(settings_in(tmp_path_factory.mktemp("metrics")))) as address:
        yield address


def test_metrics(address: str) -> None:
    httpx.get(f"{address}metrics", timeout=300)  # counted in the next response
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
    assert "abq" not in prometheus_client.generate_latest().decode()  # nothing in the process-wide registry


def test_jobs_and_live_workers(services: Services, tiny_spec: SpecMaker) -> None:
    jobs = services.storage.jobs
    for _ in range(3):
        services.jobs.submit(tiny_spec())
    jobs.claim_next("alive", now())
    jobs.claim_next("stopped", now() - timedelta(hours=1), lease=timedelta(minutes=1))
    by_state, alive = JobsCollector(jobs).collect()
    counts = {sample.labels["state"]: sample.value for sample in by_state.samples}
    assert counts == {"queued": 1, "running": 2, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert [sample.value for sample in alive.samples] == [1]


def test_requests_are_counted_for_each_application() -> None:
    counter = RequestCounter()
    for status in (200, 204, 303, 404):
        counter.add(status)
    (family,) = counter.collect()
    assert {sample.labels["answer"]: sample.value for sample in family.samples} == {"2xx": 2, "3xx": 1, "4xx": 1}
    assert {sample.name for sample in family.samples} == {"abq_http_requests_total"}
    (other,) = RequestCounter().collect()
    assert other.samples == []
