"""abq app and abq worker: serve the page, or run jobs without it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from abq_core.user_files import user_path
from app.cli.session import open_services
from app.cli.terminal.answers import Answer, answers
from app.settings import Settings
from app.web.access.accounts import Accounts
from app.web.access.addresses import LOOPBACK, Proxies, ProxyAddressError
from app.web.access.loopback import is_loopback


class ServeError(RuntimeError):
    """The page cannot be served with these options."""


@answers
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 7860,
    auth: Annotated[
        Path | None,
        typer.Option(
            "--auth",
            metavar="FILE",
            help="Require a login with an account in this file (abq auth set-password). Required for any address "
            "that other machines can reach.",
        ),
    ] = None,
    public_name: Annotated[
        list[str] | None,
        typer.Option("--public-name", help="Another host name of the page, such as that of a reverse proxy."),
    ] = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(
            "--allow",
            metavar="DIR",
            help="A folder from which the page may read models and texts. Repeat it for several. Without --auth the "
            "page may also read your home directory, the current folder and the data folder.",
        ),
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            help="Trust the headers X-Forwarded-For, -Host and -Proto of a reverse proxy on this machine, or at the "
            "addresses in FORWARDED_ALLOW_IPS.",
        ),
    ] = False,
) -> None:
    """Serve the dashboard and run its jobs. Example: abq app --port 7861"""
    if auth is None and not is_loopback(host):
        raise ServeError(
            f"Other machines can reach {host}. Create accounts with abq auth set-password NAME --file FILE and add "
            "--auth FILE; or listen on 127.0.0.1 and use an SSH tunnel (ssh -L 7860:127.0.0.1:7860 machine)."
        )
    accounts = None if auth is None else Accounts(user_path(auth))
    if accounts is not None and not accounts.names():
        raise ServeError(f"{auth} has no accounts: add one with abq auth set-password NAME --file {auth}.")
    folders = [user_path(folder, ServeError) for folder in allow or []]
    for folder in folders:
        if not folder.is_dir():
            raise ServeError(f"--allow {folder} is not a folder. Create it, or name another one.")
    proxies = _proxies() if behind_proxy else None
    settings = Settings.from_environment()
    open_services(settings)  # reports a bad data folder or database before gradio is imported
    from app.web.dashboard import launch

    launch(settings, host, port, accounts, public_name or (), folders, proxies)


@answers
def work() -> Answer:
    """Run queued jobs until the queue is empty.

    The page and `abq calibrate` start this automatically.
    """
    from app.jobs.executors.local import Supervisor

    services = open_services()
    if Supervisor(services.settings, services.storage.jobs).run_until_idle():
        return Answer({"worked": True}, "The queue is empty.")
    return Answer({"worked": False}, "Another process already runs the queue.")


def _proxies() -> Proxies:
    """The addresses in FORWARDED_ALLOW_IPS, by default this machine."""
    try:
        return Proxies.parse(os.environ.get("FORWARDED_ALLOW_IPS", "").strip() or LOOPBACK)
    except ProxyAddressError as error:
        raise ServeError(f"FORWARDED_ALLOW_IPS: {error}") from error
