"""abq auth: accounts in a password file.

Passwords are typed or piped, never passed on the command line.
"""

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from abq_core.user_files import user_path
from app.cli.terminal.answers import Answer, JsonOption, Table, answers

auth = typer.Typer(no_args_is_help=True, help="Accounts that may log in to the page: set-password, list, remove.")
FileOption = Annotated[Path, typer.Option("--file", help="The password file.")]
Name = Annotated[str, typer.Argument(help="Name of the account.")]


@auth.command("set-password")
@answers
def set_password(name: Name, file: FileOption, as_json: JsonOption = False) -> Answer:
    """Add an account, or change its password. Prompts for the password, or reads it from stdin.

    Example: abq auth set-password ada --file ~/abq-accounts
    """
    from app.web.access.accounts import Accounts

    Accounts(user_path(file)).set_password(name, _password(name))
    return Answer(
        {"account": name, "file": str(file)}, f"{name} can log in to a page served with abq app --auth {file}."
    )


@auth.command("list")
@answers
def list_accounts(file: FileOption, as_json: JsonOption = False) -> Answer:
    """List the names in a password file."""
    from app.web.access.accounts import Accounts

    names = Accounts(user_path(file)).names()
    return Answer({"accounts": names}, Table(["Account"], [[name] for name in names]) if names else "No accounts.")


@auth.command()
@answers
def remove(name: Name, file: FileOption, as_json: JsonOption = False) -> Answer:
    """Remove an account. Its sessions end immediately."""
    from app.web.access.accounts import Accounts

    Accounts(user_path(file)).remove(name)
    return Answer({"removed": name, "file": str(file)}, f"{name} can no longer log in.")


def _password(name: str) -> str:
    """Prompt twice at a terminal; otherwise read the first line of stdin."""
    from app.web.access.accounts import MAX_PASSWORD, AccountsError

    if not sys.stdin.isatty():
        return sys.stdin.readline(4 * MAX_PASSWORD).rstrip("\r\n")
    password = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("Repeat the password: ") != password:
        raise AccountsError("The passwords differ. Nothing was changed.")
    return password
