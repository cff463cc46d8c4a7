"""Visitors of the page: Gradio clients that look at their own pace, in several processes.

In one process, 50 clients would wait for each other's use of the interpreter, which would count as the page's time.
"""

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from gradio_client import Client

CLIENTS_EACH = 10  # in one process
LOOKED_AT = ("/jobs", "/runs")
PAUSE_SECONDS = 1.0


@dataclass
class Visit:
    """waits: seconds until each answer, as seen by the client.

    errors: errors that a visitor would see.
    """

    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def visitors(address: str, clients: int) -> Iterator[Callable[[float], Visit]]:
    """Open the page with this many clients (a multiple of CLIENTS_EACH).

    Yields a function that lets all of them look at the page for some seconds and returns what they saw.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(clients // CLIENTS_EACH):
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=_visit_together, args=(address, there), daemon=True))
        processes[-1].start()
        there.close()  # then a dead process raises EOFError here
        pipes.append(here)
    try:
        for pipe in pipes:
            pipe.recv()

        def look(seconds: float) -> Visit:
            for pipe in pipes:
                pipe.send(seconds)
            seen = Visit()
            for pipe in pipes:
                part = pipe.recv()
                seen.waits += part.waits
                seen.errors += part.errors
            return seen

        yield look
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _visit_together(address: str, pipe: Connection) -> None:
    """A process of clients: open the page, report that, look for the requested seconds, return what was seen.

    Without ssl_verify=False each Gradio client reads all certificates at every call, which takes longer than the
    answer. The timeout applies to opening the page.
    """
    clients = [
        Client(address, verbose=False, ssl_verify=False, httpx_kwargs={"timeout": 60}) for _ in range(CLIENTS_EACH)
    ]
    for client in clients:
        client.predict(api_name="/models")
    pipe.send(None)
    end = time.monotonic() + pipe.recv()
    seen = Visit()
    threads = [threading.Thread(target=_look, args=(client, end, seen)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(seen)


def _look(client: Client, end: float, seen: Visit) -> None:
    """Look repeatedly until the end, starting after a random delay so that clients do not act in step."""
    time.sleep(random.uniform(0, len(LOOKED_AT) * PAUSE_SECONDS))
    while time.monotonic() < end:
        for endpoint in LOOKED_AT:
            started = time.monotonic()
            try:
                client.predict(api_name=endpoint)
                seen.waits.append(time.monotonic() - started)
            except Exception as error:  # any error that a visitor would see
                seen.errors.append(f"{type(error).__name__}: {error}")
        time.sleep(PAUSE_SECONDS)
