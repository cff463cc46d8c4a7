"""Who sees what a run shows of its text."""

from types import SimpleNamespace

import pytest

from abq_core.spec import CalibrationSpec
from app.clock import now
from app.services import Services
from app.web.access.private_texts import PrivateTextError, check_text_access, may_see_text, public_record


def test_only_the_account_that_queued_a_run_on_a_file_sees_its_text(services: Services) -> None:
    def queued(data: str, account: str | None) -> str:
        spec = CalibrationSpec("builtin", services.models.precision("W4A4"), data=data).to_dict()
        return services.storage.jobs.submit(spec, now(), account=account).run_id

    ada, bob, anyone = (SimpleNamespace(scope={"abq.visitor": name}) for name in ("ada", "bob", None))
    for data, account, seen in (
        ("/texts/a.txt", "ada", (True, False, True)),
        ("/texts/a.txt", None, (False, False, True)),
        ("wikitext2", "ada", (True, True, True)),
    ):
        run = services.runs.get(queued(data, account))
        assert tuple(may_see_text(run, visitor) for visitor in (ada, bob, anyone)) == seen
        if not seen[1]:
            with pytest.raises(PrivateTextError, match="only the account"):
                check_text_access(run, bob)


def test_a_public_record_has_no_positions() -> None:
    assert public_record({"source": "a.txt", "windows": [1], "sha256": "0"}) == {"source": "a.txt"}
