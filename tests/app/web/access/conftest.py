"""A password file with one account."""

from pathlib import Path

import pytest
from account_cases import PASSWORD

from app.web.access import accounts as accounts_module
from app.web.access.accounts import Accounts


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """One account, with a cheap password hash."""
    monkeypatch.setattr(accounts_module, "_COST", 1 << 4)
    made = Accounts(tmp_path / "accounts")
    made.set_password("ada", PASSWORD)
    return made
