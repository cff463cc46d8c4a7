"""The page served from a thread of the test, on a port that the system chooses."""

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
    server = uvicorn.Server(uvicorn.Config(web_application(explorer), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
