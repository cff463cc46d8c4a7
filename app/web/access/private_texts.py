"""Access control for run data that can reveal the calibration text.

Token texts, attention maps and learned scales can reveal the file that a run was calibrated on.
"""

from collections.abc import Mapping
from typing import Any

from abq_core.text.sources import is_name
from app.services import ServiceError
from app.web.access.login import account_of
from storage.runs import Run


class PrivateTextError(ServiceError):
    """The run read a file that another account named."""


def check_text_access(run: Run, request: Any) -> None:
    """Raises PrivateTextError unless this visitor may see what the run shows of its text."""
    if not may_see_text(run, request):
        raise PrivateTextError(
            f"Run {run.id} was calibrated on a file. Its figures, tables and files can reveal parts of that file, so "
            "only the account that queued the run can see them. Calibrate it yourself, or on 'builtin'."
        )


def may_see_text(run: Run, request: Any) -> bool:
    """True without a login, for runs on public texts, and for the account that queued the run.

    A run that the command line queued belongs to no account.
    request: Gradio's or Starlette's.
    """
    account = account_of(request)
    return account is None or is_name(str(run.spec.get("data", ""))) or run.account == account


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a text without the positions and the hash of its tokens.

    From the losses and positions of short windows, or from the hash of a few tokens, the tokens can be computed.
    """
    return {name: value for name, value in record.items() if name not in ("windows", "sha256")}
