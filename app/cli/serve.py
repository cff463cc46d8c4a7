"""abq app and abq worker: the page, and jobs without the page."""

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from app.cli.answers import Answer, answers
from app.cli.session import open_services
from app.settings import Settings
from app.web.access.accounts import Accounts


class ServeError(RuntimeError):
    """The page cannot be served as asked."""


@answers
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 7860,
    auth: Annotated[
        Path | None,
        typer.Option(
            "--auth",
            metavar="FILE",
            help="Let in only the accounts of this file (abq auth set-password). Needed for any address that others "
            "can reach.",
        ),
    ] = None,
    public_name: Annotated[
        list[str] | None,
        typer.Option("--public-name", help="Another host name of the page, such as that of a proxy before it."),
    ] = None,
) -> None:
    """Serve the dashboard, with a worker for its jobs. Example: abq app --port 7861"""
    if auth is None and not _is_loopback(host):
        raise ServeError(
            f"{host} can be reached by other machines. Say who may log in: abq auth set-password NAME --file FILE, "
            "then add --auth FILE. Or stay on 127.0.0.1 and use an SSH tunnel (ssh -L 7860:127.0.0.1:7860 machine)."
        )
    accounts = None if auth is None else Accounts(auth.expanduser())
    if accounts is not None and not accounts.names():
        raise ServeError(f"{auth} has no accounts: add one with abq auth set-password NAME --file {auth}.")
    settings = Settings.from_environment()
    open_services(settings)  # a bad data folder or database is said now, in a second
    from app.web.dashboard import launch

    launch(settings, host, port, accounts, public_name or ())


@answers
def work() -> Answer:
    """Run queued jobs until the queue is empty, then end. The page and `abq calibrate` start this by themselves."""
    from app.jobs.executors.local import Supervisor

    services = open_services()
    if Supervisor(services.settings, services.storage.jobs).run_until_idle():
        return Answer({"worked": True}, "The queue is empty.")
    return Answer({"worked": False}, "Another process looks after the queue already.")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
