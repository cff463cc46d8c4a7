"""The dashboard as one ASGI application: tabs, endpoints, downloads; and its server."""

import asyncio
import importlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Gradio summarizes the timings of all past calls after every N calls, only for its monitoring page, which is disabled.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from app.jobs.executors.local import Supervisor
from app.services import ServiceError, Services, open_services
from app.settings import Settings
from app.web.access.accounts import Accounts
from app.web.access.addresses import Proxies
from app.web.access.allowed_folders import page_folders
from app.web.access.connections import ConnectionLimits, Connections, TrackRequestsMiddleware, protocol_with
from app.web.access.ended_streams import EndedStreamMiddleware
from app.web.access.loopback import is_loopback
from app.web.access.page_functions import page_functions
from app.web.access.request_bodies import Arguments, RequestBodyMiddleware
from app.web.access.security import LOOPBACK_HOSTS, allowed_hosts, middleware
from app.web.access.visitor_texts import VisitorTexts
from app.web.downloads import ASSETS, download_routes
from app.web.endpoints import build_endpoints
from app.web.failures import EXPECTED
from app.web.limits import Limits
from app.web.log_rate import OncePerSecond
from app.web.metrics import CountRequestsMiddleware, RequestCounter, metrics_route
from app.web.page.context import Page
from app.web.page.header import Header
from app.web.page.selection import Selection
from app.web.tabs.calibrate import build_calibrate_tab
from app.web.tabs.compare.tab import build_compare_tab
from app.web.tabs.distributions import build_distributions_tab
from app.web.tabs.explore import build_explore_tab
from app.web.tabs.generate import build_generate_tab
from app.web.tabs.speed.throughput import build_throughput_tab
from app.web.texts import text_route
from app.web.theme import gradio_theme

BUILDERS = {
    "explore": build_explore_tab,
    "calibrate": build_calibrate_tab,
    "distributions": build_distributions_tab,
    "generate": build_generate_tab,
    "throughput": build_throughput_tab,
    "compare": build_compare_tab,
}
MAX_WAITING_REQUESTS = 256  # a visitor's tab sends up to eight at once
CONCURRENT_CALLBACKS = 8
MAX_SESSIONS = 256  # Gradio keeps about a third of a MiB for each browser session; the oldest are dropped.
QUEUE_STATUS_SECONDS = 2.0
SHUTDOWN_SECONDS = 3
# Loggers whose messages clients can cause as often as they like.
CLIENT_LOGGERS = ("asyncio", "uvicorn.error", "app.web.access.connections", "app.web.access.login")

logger = logging.getLogger(__name__)
_once_per_second = OncePerSecond()


class PortInUseError(ServiceError):
    """Another program listens on the port."""


def build(services: Services, texts: VisitorTexts) -> tuple[gr.Blocks, dict[str, Arguments]]:
    """Build the page: header, tabs and endpoints. Returns it and each endpoint's arguments."""
    limits = Limits()
    with gr.Blocks(title="ABQ Explorer", analytics_enabled=False, fill_width=True) as blocks:
        header = Header(services)
        with gr.Tabs(selected="explore", elem_id="abq-tabs") as tabs:
            page = Page(services, header, tabs, limits, texts)
            made = []
            for name, builder in BUILDERS.items():
                with gr.Tab(name.capitalize(), id=name, elem_id=f"tab-{name}") as tab:
                    builder(page)
                made.append(tab)
        header.wire(blocks, tabs, made)
        endpoints = build_endpoints(services, limits)
    # With a status update rate Gradio reports queue positions on a timer, not to every client at every event.
    blocks.queue(
        max_size=MAX_WAITING_REQUESTS,
        default_concurrency_limit=CONCURRENT_CALLBACKS,
        status_update_rate=QUEUE_STATUS_SECONDS,
    )
    # The parameter of this name belongs to `Blocks.launch`, which an application mounted in FastAPI does not call.
    blocks.state_session_capacity = MAX_SESSIONS
    return blocks, endpoints


def web_application(
    services: Services,
    hosts: tuple[str, ...] = LOOPBACK_HOSTS,
    accounts: Accounts | None = None,
    proxies: Proxies | None = None,
) -> FastAPI:
    """The page, its downloads and metrics behind the access checks.

    hosts: host names that requests may use. accounts: None disables the login. proxies: whose forwarded headers count.
    Gradio's sharing, run history, monitoring, uploads and file routes are disabled.
    """
    texts = VisitorTexts(services.settings.data_dir, services.jobs.texts_in_use)
    blocks, endpoints = build(services, texts)
    functions = page_functions(blocks.get_config_file(), endpoints)
    counter = RequestCounter()
    application = FastAPI(
        routes=[*download_routes(services), text_route(texts), metrics_route(services.storage.jobs, counter)],
        middleware=[
            Middleware(CountRequestsMiddleware, counter=counter),
            *middleware(hosts, accounts, proxies),
            Middleware(EndedStreamMiddleware),
            Middleware(RequestBodyMiddleware, endpoints=endpoints, functions=functions),
        ],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    return gr.mount_gradio_app(
        application,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        allowed_paths=[],
        max_file_size=1,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gradio_theme(),
        css_paths=[ASSETS / "page.css"],
    )


def launch(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 7860,
    accounts: Accounts | None = None,
    public_names: Sequence[str] = (),
    allow: Sequence[Path] = (),
    proxies: Proxies | None = None,
) -> None:
    """Serve the page and run queued jobs until interrupted.

    public_names: host names of the page besides `host`, such as that of a reverse proxy.
    allow: folders from which the page may read models and texts, besides its own (`page_folders`).
    proxies: whose forwarded headers count.
    Raises SettingsError, DatabaseError, PortInUseError.
    """
    listener = _listen(host, port)
    only_this_account = accounts is None and not public_names and proxies is None and is_loopback(host)
    services = open_services(settings, page_folders(settings.data_dir, only_this_account, allow))
    supervisor = Supervisor(settings, services.storage.jobs)
    configuration = server_configuration(
        web_application(services, (*allowed_hosts(host), *public_names), accounts, proxies), proxies
    )
    # Both import parts of themselves in circles: if two threads imported one first, one of them could fail.
    for library in ("transformers", "numba"):
        importlib.import_module(library)
    _add_examples(services)
    url_host = f"[{host}]" if ":" in host else host
    print(f"ABQ Explorer: http://{url_host}:{port} (data in {settings.data_dir}). Press Ctrl-C to stop.", flush=True)
    supervisor.start()
    threading.Thread(target=_warm_up, args=[services], name="warm-up", daemon=True).start()
    server = uvicorn.Server(configuration)
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: not (server.should_exit and is_shutdown_cancellation(record))
    )
    try:
        server.run(sockets=[listener])
    finally:
        supervisor.stop()


def server_configuration(application: ASGIApp, proxies: Proxies | None = None) -> uvicorn.Config:
    """Settings of the server: limits of connections and of its log, no websockets.

    uvicorn's own handling of forwarded headers is disabled: it trusts every program of this machine.
    """
    connections = Connections(ConnectionLimits.of_process(), proxies or Proxies())
    configuration = uvicorn.Config(
        TrackRequestsMiddleware(application, connections),
        http=protocol_with(connections),
        ws="none",
        backlog=connections.limits.backlog,
        proxy_headers=False,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    for name in CLIENT_LOGGERS:
        logging.getLogger(name).addFilter(_once_per_second)
    return configuration


def is_shutdown_cancellation(record: logging.LogRecord) -> bool:
    """True if uvicorn logs a response that shutdown cancelled.

    An open page holds an event stream until Ctrl-C.
    """
    cancelled = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    return cancelled or "timeout graceful shutdown exceeded" in record.getMessage()


def _add_examples(services: Services) -> None:
    """Add the examples to a new data folder. That takes seconds, and without them most tabs would be empty."""
    if services.examples.are_expected():
        print(f"Adding the examples to {services.settings.data_dir}.", flush=True)
        try:
            services.examples.add_to_new_folder()
        except Exception:  # whatever is wrong with an example, the page works without
            logger.exception("The examples could not be added.")


def _warm_up(services: Services) -> None:
    """Load the model of the first tab, then compile the CPU kernels.

    Compilation runs in its own process: in this one it would hold the GIL and delay responses.
    """
    try:
        services.models.explore(Selection.model, Selection.precision)
    except EXPECTED:
        logger.exception("The built-in model could not be explored.")
    subprocess.run([sys.executable, "-m", "kernels.warm_up"], check=False, start_new_session=True)


def _listen(host: str, port: int) -> socket.socket:
    """Bind a TCP socket. Raises PortInUseError if the port is taken or not allowed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUseError(
            f"Cannot listen on port {port} of {host}: {error.strerror}. Stop the program that uses it, or choose "
            f"another port, for example --port {port + 1}."
        ) from error
    listener.set_inheritable(True)
    return listener
