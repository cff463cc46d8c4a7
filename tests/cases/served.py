"""Serve the page from a thread of the test, on a free port."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from app.services import Services
from app.web.access.accounts import Accounts
from app.web.dashboard import web_application

BUILT_WITHIN_SECONDS = 600


@contextlib.contextmanager
def served(services: Services, accounts: Accounts | None = None) -> Iterator[str]:
    """The page's URL while the block runs. accounts: None disables the login.

    There is no supervisor: jobs stay queued until the test runs them.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    stop: list[uvicorn.Server] = []
    built = threading.Event()

    async def serve() -> None:
        # Built inside the loop: without a running loop, Gradio creates loops and does not close them.
        application = web_application(services, accounts=accounts)
        configuration = uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=1)
        stop.append(uvicorn.Server(configuration))
        built.set()
        await stop[0].serve(sockets=[listening])

    thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
    thread.start()
    try:
        assert built.wait(BUILT_WITHIN_SECONDS), "the page could not be built"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        for server in stop:
            server.should_exit = True
        thread.join()
        listening.close()
