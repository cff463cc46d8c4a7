"""Details of a failed job. Visitors of the page read the job's log, so it holds the stack but no library's message.

A library's message can quote what it read, such as a line of a file.
"""

import traceback
from pathlib import Path

from app.clock import now
from app.secrets import redacted

FILE = "job-errors.log"  # in the logs folder
_MAX_BYTES = 1 << 20


def stack_of(error: BaseException) -> str:
    """The call stacks of an error and its causes, with the errors' types and without their messages."""
    parts: list[str] = []
    one: BaseException | None = error
    while one is not None:
        parts.insert(0, "".join(traceback.format_tb(one.__traceback__)) + type(one).__name__)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\n\n".join(parts)


def write_details(error: BaseException, job_id: str, logs_dir: Path) -> None:
    """Append the whole traceback to FILE, which only the machine's accounts can read."""
    path = logs_dir / FILE
    mode = "w" if path.exists() and path.stat().st_size > _MAX_BYTES else "a"
    with path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{now():%Y-%m-%d %H:%M:%S} job {job_id}\n{redacted(''.join(traceback.format_exception(error)))}\n")
