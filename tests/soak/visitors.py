"""Visitors of the page: gradio clients, each with a pace of its own, in a few processes.

One process would not do: each of 50 clients in it waits for the others' turns with the interpreter, and the page does
not take that time.
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
    """waits: seconds of each answer, as the client sees it.  errors: whatever a visitor would see instead."""

    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def visitors(address: str, clients: int) -> Iterator[Callable[[float], Visit]]:
    """Clients (a multiple of CLIENTS_EACH) that have opened the page. Calling what is yielded has them all look at it
    for so many seconds, and gives what they saw.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(clients // CLIENTS_EACH):
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=_visit_together, args=(address, there), daemon=True))
        processes[-1].start()
        there.close()  # so that a process that dies is an EOFError here
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
    """The life of a process of clients: open the page, say so, look at it for as long as told, say what was seen.

    Without ssl_verify=False each of gradio's clients reads all certificates at every call, which takes longer than the
    answer. The timeout is for opening the page.
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
    """Look again and again until the end, from a moment on at which no other visitor begins."""
    time.sleep(random.uniform(0, len(LOOKED_AT) * PAUSE_SECONDS))
    while time.monotonic() < end:
        for endpoint in LOOKED_AT:
            started = time.monotonic()
            try:
                client.predict(api_name=endpoint)
                seen.waits.append(time.monotonic() - started)
            except Exception as error:  # whatever a visitor would see
                seen.errors.append(f"{type(error).__name__}: {error}")
        time.sleep(PAUSE_SECONDS)
