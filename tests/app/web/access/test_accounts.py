"""Accounts: the password file, names, passwords, and the command that changes them."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from account_cases import PASSWORD

from app.cli.main import main
from app.web.access import accounts as accounts_module
from app.web.access.accounts import Accounts, AccountsError, hash_password, matches


def test_the_file_holds_salted_hashes_and_only_its_owner_can_read_it(accounts: Accounts) -> None:
    accounts.set_password("bob", PASSWORD)
    text = accounts.path.read_text()
    assert PASSWORD not in text and accounts.path.stat().st_mode & 0o777 == 0o600
    assert accounts.names() == ["ada", "bob"] and accounts.password_hash("ada") != accounts.password_hash("bob")
    assert accounts.verify("ada", PASSWORD) and not accounts.verify("ada", PASSWORD + "!")
    assert not accounts.verify("eve", PASSWORD) and not accounts.verify("", "")
    accounts.remove("ada")
    assert accounts.names() == ["bob"] and not accounts.verify("ada", PASSWORD)
    with pytest.raises(AccountsError, match=r"no account 'ada'.*bob"):
        accounts.remove("ada")


def test_hashes_have_the_documented_cost() -> None:
    stored = hash_password(PASSWORD)
    assert stored.startswith("scrypt$32768$8$3$") and matches(PASSWORD, stored) and not matches("", stored)


def test_files_of_the_first_version_still_work(tmp_path: Path) -> None:
    stored = "scrypt$32768$8$3$rzvDcxFuh4NqmXLawpRFxw==$8Pdb959hHW53ttscJoYCsB9VlCpinhkto3Dw+Pva+w0="
    path = tmp_path / "accounts"
    path.write_text(f"ada:{stored}\n")
    path.chmod(0o600)
    accounts = Accounts(path)
    assert accounts.verify("ada", PASSWORD) and not accounts.verify("ada", PASSWORD + "!")
    accounts.set_password("bob", PASSWORD)
    assert f"ada:{stored}\n" in path.read_text() and Accounts(path).verify("ada", PASSWORD)


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a" * 65, "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_invalid_names_are_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(AccountsError, match="is not a valid name"):
        accounts.set_password(name, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "a" * 257])
def test_passwords_that_are_too_short_or_too_long_are_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(AccountsError, match=f"has {len(password)} characters"):
        accounts.set_password("ada", password)


@pytest.mark.parametrize("text", ["ada", "ada:plain-password", "ada:scrypt$1$1$1$a$b", "\udcff"])
def test_a_file_in_another_format_is_refused(accounts: Accounts, text: str) -> None:
    accounts.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AccountsError, match=r"password file .*accounts"):
        accounts.names()


def test_a_file_that_others_can_read_is_refused(accounts: Accounts, tmp_path: Path) -> None:
    os.chmod(accounts.path, 0o644)
    with pytest.raises(AccountsError, match="chmod 600"):
        accounts.names()
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AccountsError, match=r"not a regular file|set-password"):
            Accounts(path).names()


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    yield lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_the_command_reads_the_password_from_stdin(
    tmp_path: Path, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts_module, "_COST", 1 << 4)
    file = tmp_path / "folder" / "accounts"
    typed(PASSWORD + "\n")
    assert main(["auth", "set-password", "ada", "--file", str(file)]) == 0
    typed("short\n")
    assert main(["auth", "set-password", "bob", "--file", str(file)]) == 2
    out, err = capsys.readouterr()
    assert PASSWORD not in out + err and "5 characters" in err
    assert main(["auth", "list", "--file", str(file), "--json"]) == 0
    assert '"ada"' in capsys.readouterr().out and Accounts(file).verify("ada", PASSWORD)
    assert main(["auth", "remove", "ada", "--file", str(file)]) == 0
    capsys.readouterr()
    assert main(["app", "--host", "0.0.0.0", "--auth", str(file)]) == 2
    assert "no accounts" in capsys.readouterr().err
    assert main(["app", "--auth", str(tmp_path / "nowhere")]) == 2
    assert "set-password" in capsys.readouterr().err
