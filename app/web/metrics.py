"""Numbers for a monitoring system, as Prometheus reads them: jobs by state, workers alive, requests by answer."""

import threading
from collections import Counter
from typing import get_args

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.clock import now
from app.services import Explorer
from storage.schema import JobState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RequestCounter:
    """How many requests got an answer of each kind since this process began."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, status: int) -> None:
        with self._lock:
            self._counts[f"{status // 100}xx"] += 1

    def read(self) -> dict[str, int]:
        with self._lock:
            return dict(sorted(self._counts.items()))


class CountRequestsMiddleware:
    """Counts every answer, refusals too."""

    def __init__(self, app: ASGIApp, counter: RequestCounter) -> None:
        self.app, self.counter = app, counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counter.add(message["status"])
            await send(message)

        await self.app(scope, receive, counted)


def metrics_route(explorer: Explorer, counter: RequestCounter) -> Route:
    """GET /metrics."""

    async def metrics(request: Request) -> Response:
        text = await run_in_threadpool(metrics_text, explorer, counter)
        return Response(text, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    return Route("/metrics", metrics)


def metrics_text(explorer: Explorer, counter: RequestCounter) -> str:
    """All figures; the lines of a figure have the same name and differ in a label."""
    jobs = explorer.jobs.counts()
    alive = sum(job.lease_until is not None and job.lease_until > now() for job in explorer.jobs.list("running"))
    figures = [
        ("abq_jobs", "gauge", "Jobs by state.", {f'{{state="{s}"}}': jobs.get(s, 0) for s in get_args(JobState)}),
        ("abq_workers_alive", "gauge", "Running jobs whose worker holds its lease.", {"": alive}),
        (
            "abq_http_requests_total",
            "counter",
            "Requests by kind of answer since the page was started.",
            {f'{{answer="{answer}"}}': count for answer, count in counter.read().items()},
        ),
    ]
    lines = []
    for name, kind, help_text, values in figures:
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{label} {value}" for label, value in values.items()]
    return "\n".join(lines) + "\n"
