"""Prometheus metrics: jobs by state, live workers, HTTP responses by status class."""

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.clock import now
from storage.jobs import Jobs
from storage.schema import JobState


class RequestCounter(Collector):
    """Number of HTTP responses by status class ("2xx", "4xx").

    It starts at 0 when the application is created.
    A `prometheus_client.Counter` would add an `abq_http_requests_created` series for each class.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, status: int) -> None:
        """Count a response. Call this from the event loop only."""
        answer = f"{status // 100}xx"
        self._counts[answer] = self._counts.get(answer, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """The counter `abq_http_requests_total`."""
        family = CounterMetricFamily(
            "abq_http_requests_total", "HTTP responses by status class since the page started.", labels=["answer"]
        )
        for answer, count in sorted(self._counts.copy().items()):
            family.add_metric([answer], count)
        yield family


class JobsCollector(Collector):
    """Gauges that are read from the database at every scrape."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """The gauges `abq_jobs` and `abq_workers_alive`."""
        counts = self._jobs.counts()
        by_state = GaugeMetricFamily("abq_jobs", "Jobs by state.", labels=["state"])
        for state in get_args(JobState):
            by_state.add_metric([state], counts.get(state, 0))
        yield by_state
        alive = sum(job.lease_until is not None and job.lease_until > now() for job in self._jobs.list("running"))
        yield GaugeMetricFamily("abq_workers_alive", "Running jobs whose worker holds its lease.", alive)


class CountRequestsMiddleware:
    """Count every HTTP response, including refusals."""

    def __init__(self, app: ASGIApp, counter: RequestCounter) -> None:
        self.app, self.counter = app, counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its response."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counter.add(message["status"])
            await send(message)

        await self.app(scope, receive, counted)


def metrics_route(jobs: Jobs, counter: RequestCounter) -> Route:
    """GET /metrics in Prometheus' text format 0.0.4, from a registry of this application alone."""
    registry = CollectorRegistry()
    registry.register(JobsCollector(jobs))
    registry.register(counter)

    async def metrics(request: Request) -> Response:
        text = await run_in_threadpool(generate_latest, registry)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers={"Cache-Control": "no-store"})

    return Route("/metrics", metrics)
