"""Error details of a failed job: stacks for its log, full tracebacks for a file.

Visitors of the page read the job's log, so it holds the stack but no library's message, which can quote what the
library read, such as a line of a file.
"""

import contextlib
import traceback
from pathlib import Path

from app.clock import now
from app.secrets import redacted

FILE = "job-errors.log"  # in the logs folder
_MAX_BYTES = 1 << 20


def stack_of(error: BaseException) -> str:
    """Tracebacks of an error and its causes, without messages of foreign errors.

    Only the messages of this program's errors are included.
    """
    parts: list[str] = []
    one: BaseException | None = error
    while one is not None:
        message = f": {one}" if is_own(one) else ""
        stack = "".join(traceback.format_tb(one.__traceback__))
        parts.insert(0, f"Traceback (most recent call last):\n{stack}{type(one).__name__}{message}")
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\n\n".join(parts)


def is_own(error: BaseException) -> bool:
    """True for errors that this program's packages define.

    Their messages quote at most names and settings.
    """
    return type(error).__module__.split(".")[0] in ("app", "abq_core", "kernels", "storage")


def write_details(error: BaseException, job_id: str, logs_dir: Path) -> None:
    """Append the whole traceback to FILE, which the page does not show."""
    path = logs_dir / FILE
    details = redacted("".join(traceback.format_exception(error)))
    with contextlib.suppress(OSError):  # on a full disk the job still fails with its sentence
        mode = "w" if path.exists() and path.stat().st_size > _MAX_BYTES else "a"
        with path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{now():%Y-%m-%d %H:%M:%S} job {job_id}\n{details}\n")
