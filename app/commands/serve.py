"""abq app and abq worker: the page, and jobs without the page."""

import ipaddress
from typing import Annotated

import typer

from app.commands.answers import Answer, answers
from app.commands.session import open_explorer
from app.settings import Settings


class ServeError(RuntimeError):
    """The page cannot be served as asked."""


@answers
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 7860,
    without_login: Annotated[
        bool,
        typer.Option(
            "--without-login",
            help="Listen on an address that others can reach although the page asks nobody who they are: whoever "
            "reaches it can start jobs, read runs and name files of this machine.",
        ),
    ] = False,
) -> None:
    """Serve the dashboard, with a worker for its jobs. Example: abq app --port 7861"""
    if not without_login and not _is_loopback(host):
        raise ServeError(
            f"{host} can be reached by other machines, and the page asks nobody who they are. Use 127.0.0.1 with an "
            "SSH tunnel (ssh -L 7860:127.0.0.1:7860 this-machine), or add --without-login on a network you trust."
        )
    settings = Settings.from_environment()
    open_explorer(settings)  # a bad data folder or database is said now, in a second
    from app.dashboard import launch

    launch(settings, host, port)


@answers
def work() -> Answer:
    """Run queued jobs until the queue is empty, then end. The page and `abq calibrate` start this by themselves."""
    from app.executors.local import Supervisor

    explorer = open_explorer()
    if Supervisor(explorer.settings, explorer.jobs).run_until_idle():
        return Answer({"worked": True}, "The queue is empty.")
    return Answer({"worked": False}, "Another process looks after the queue already.")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
