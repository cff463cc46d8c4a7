"""The page served from a thread of the test, on a port that the system chooses."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from app.dashboard import web_application
from app.services import Explorer


@contextlib.contextmanager
def served(explorer: Explorer) -> Iterator[str]:
    """The page's address while the block runs. No supervisor: jobs stay queued until the test works on them."""
    listening = socket.create_server(("127.0.0.1", 0))
    stop: list[uvicorn.Server] = []

    async def serve() -> None:
        # Built inside the loop: outside of one, Gradio makes loops that nobody closes.
        configuration = uvicorn.Config(web_application(explorer), log_level="error", timeout_graceful_shutdown=1)
        stop.append(uvicorn.Server(configuration))
        await stop[0].serve(sockets=[listening])

    thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        stop[0].should_exit = True
        thread.join()
        listening.close()
