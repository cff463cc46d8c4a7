"""The page: header, six tabs, endpoints and downloads as one web application, and the server that shows it."""

import asyncio
import importlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000")  # no summary of all calls after every call
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Mount

from app.jobs.executors.local import Supervisor
from app.services import Explorer, ServiceError
from app.settings import Settings
from app.web.access.accounts import Accounts
from app.web.access.security import LOOPBACK_HOSTS, middleware, names_of
from app.web.downloads import ASSETS, download_routes
from app.web.endpoints import build_endpoints
from app.web.limits import Limits
from app.web.metrics import CountRequestsMiddleware, RequestCounter, metrics_route
from app.web.quicker import quicken
from app.web.tabs.calibrate import build_calibrate_tab
from app.web.tabs.compare import build_compare_tab
from app.web.tabs.distributions import build_distributions_tab
from app.web.tabs.explore import build_explore_tab
from app.web.tabs.generate import build_generate_tab
from app.web.tabs.guard import EXPECTED
from app.web.tabs.page import Header, Page
from app.web.tabs.selection import Selection
from app.web.tabs.throughput import build_throughput_tab
from app.web.theme import gradio_theme

BUILDERS = {
    "explore": build_explore_tab,
    "calibrate": build_calibrate_tab,
    "distributions": build_distributions_tab,
    "generate": build_generate_tab,
    "throughput": build_throughput_tab,
    "compare": build_compare_tab,
}
QUEUE_SIZE = 64
MOST_SESSIONS = 256  # gradio keeps a copy of the page's settings for each, a third of a MiB; the oldest is forgotten
STATUS_SECONDS = 2.0  # between notes on places in the queue; by itself gradio sends one to everybody at every event
LOOK_SECONDS = 0.01  # between looks at the queue; gradio's own pace, 1 ms, keeps a tenth of a core busy on an idle page
SHUTDOWN_SECONDS = 3
TURN_SECONDS = 0.0005  # with the interpreter: the thread that answers waits so long for each of those that compute

logger = logging.getLogger(__name__)


class PortInUseError(ServiceError):
    """Another program answers on the port."""


def build(explorer: Explorer) -> gr.Blocks:
    """The page on these services."""
    limits = Limits()
    with gr.Blocks(title="ABQ Explorer", analytics_enabled=False, fill_width=True) as blocks:
        header = Header(explorer)
        with gr.Tabs(selected="explore", elem_id="abq-tabs") as tabs:
            page = Page(explorer, header, tabs, limits)
            made = []
            for name, builder in BUILDERS.items():
                with gr.Tab(name.capitalize(), id=name, elem_id=f"tab-{name}") as tab:
                    builder(page)
                made.append(tab)
        header.wire(blocks, page, made)
        build_endpoints(explorer, limits)
    blocks.queue(max_size=QUEUE_SIZE, default_concurrency_limit=8, status_update_rate=STATUS_SECONDS)
    blocks._queue.sleep_when_free = blocks._queue.progress_update_sleep_when_free = LOOK_SECONDS
    blocks.state_session_capacity = MOST_SESSIONS
    return blocks


def web_application(
    explorer: Explorer, hosts: tuple[str, ...] = LOOPBACK_HOSTS, accounts: Accounts | None = None
) -> FastAPI:
    """The page behind its checks, with its downloads and figures. Nothing is shared, recorded or monitored."""
    counter = RequestCounter()
    application = FastAPI(
        routes=[*download_routes(explorer), metrics_route(explorer, counter)],
        middleware=[Middleware(CountRequestsMiddleware, counter=counter), *middleware(hosts, accounts)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    mounted = gr.mount_gradio_app(
        application,
        build(explorer),
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
    pages = mounted.routes[-1]
    assert isinstance(pages, Mount)
    quicken(pages.app)
    return mounted


def launch(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 7860,
    accounts: Accounts | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve the page and work on the queue until interrupted. names: under which the page is reached besides `host`.

    Raises SettingsError, DatabaseError, PortInUseError.
    """
    listening = _listen(host, port)
    explorer = Explorer.open(settings)
    supervisor = Supervisor(settings, explorer.jobs)
    configuration = uvicorn.Config(
        web_application(explorer, (*names_of(host), *names), accounts),
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    shown = f"[{host}]" if ":" in host else host
    print(
        f"ABQ Explorer is on http://{shown}:{port} with its data in {settings.data_dir}. Ctrl-C stops it.", flush=True
    )
    # It takes another module's place while it is imported: of two threads that do so at once, one gets the wrong one.
    importlib.import_module("transformers")
    supervisor.start()
    threading.Thread(target=_warm_up, args=[explorer], name="warm-up", daemon=True).start()
    sys.setswitchinterval(TURN_SECONDS)
    server = uvicorn.Server(configuration)
    logging.getLogger("uvicorn.error").addFilter(lambda record: not (server.should_exit and is_cut_off(record)))
    try:
        server.run(sockets=[listening])
    finally:
        supervisor.stop()


def is_cut_off(record: logging.LogRecord) -> bool:
    """Whether uvicorn reports that an answer was cut off: after Ctrl-C that is no error, a page is open and listens."""
    cut_off = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    return cut_off or "timeout graceful shutdown exceeded" in record.getMessage()


def _warm_up(explorer: Explorer) -> None:
    """Load torch and the model of the first page while the visitor's browser is still loading, then compile the engine
    in a process of its own: compiling holds the interpreter that answers.
    """
    try:
        explorer.explore(Selection.model, Selection.precision)
    except EXPECTED:
        logger.exception("The built-in model could not be explored.")
    subprocess.run([sys.executable, "-m", "kernels.warm_up"], check=False, start_new_session=True)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises PortInUseError where another program does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise PortInUseError(
            f"Port {port} on {host} cannot be used ({error.strerror}). Stop the program that has it, or choose another "
            f"with --port, such as {port + 1}."
        ) from error
    listening.set_inheritable(True)
    return listening
