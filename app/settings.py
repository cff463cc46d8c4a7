"""Settings of one process, from the environment: data folder, database, threads, device."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from abq_core.user_files import UserFileError, user_path
from kernels.host.priority import NICENESS


class SettingsError(ValueError):
    """A setting is invalid; the message names the variable, its value and what to do."""


@dataclass(frozen=True)
class Settings:
    """Data location, threads and device of one process.

    threads: CPU threads, at least 1.  device: cpu, cuda or cuda:N.  niceness: of the jobs of the page, 0 to 19.
    """

    data_dir: Path
    database_url: str
    threads: int
    device: str
    niceness: int = NICENESS

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the variables that `to_environment` writes. Raises SettingsError."""
        variables = os.environ if environment is None else environment
        data_dir = _data_dir(variables.get("ABQ_DATA_DIR", "").strip())
        url = variables.get("ABQ_DATABASE_URL", "").strip() or f"sqlite:///{data_dir / 'abq.sqlite3'}"
        if "://" not in url:
            raise SettingsError(
                f"ABQ_DATABASE_URL is {url!r}, which is not a database URL. "
                "Use sqlite:////absolute/path/abq.sqlite3 or postgresql+psycopg://user@host/name."
            )
        return cls(
            data_dir,
            url,
            _threads(variables.get("ABQ_THREADS", "").strip()),
            _device(variables.get("ABQ_DEVICE", "")),
            _niceness(variables.get("ABQ_NICENESS", "").strip()),
        )

    def to_environment(self) -> dict[str, str]:
        """The environment variables that give a child process these settings."""
        return {
            "ABQ_DATA_DIR": str(self.data_dir),
            "ABQ_DATABASE_URL": self.database_url,
            "ABQ_THREADS": str(self.threads),
            "ABQ_DEVICE": self.device,
            "ABQ_NICENESS": str(self.niceness),
        }

    @property
    def runs_dir(self) -> Path:
        """The folder with one folder per run."""
        return self.data_dir / "runs"

    @property
    def reports_dir(self) -> Path:
        """The folder of HTML reports."""
        return self.data_dir / "reports"

    @property
    def exports_dir(self) -> Path:
        """The folder of exports that the page wrote: one folder per run, in it one per format."""
        return self.data_dir / "exports"

    @property
    def logs_dir(self) -> Path:
        """The folder of log files."""
        return self.data_dir / "logs"

    def prepare(self) -> None:
        """Create the data folder and check that it is writable. Raises SettingsError."""
        try:
            for folder in (self.data_dir, self.runs_dir, self.reports_dir, self.logs_dir):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.data_dir):
                pass
        except OSError as error:
            raise SettingsError(
                f"The data folder {self.data_dir} cannot be written ({error.strerror}). "
                "Set ABQ_DATA_DIR to another folder, or make this one writable."
            ) from error


def _data_dir(text: str) -> Path:
    try:
        path = user_path(text) if text else Path(platformdirs.user_data_dir("abq-explorer", appauthor=False))
        if path.exists() and not path.is_dir():
            raise SettingsError(f"ABQ_DATA_DIR is {str(path)!r}, which is a file. Set it to a folder.")
        str(path).encode("utf-8")  # the database's URL and settings of child processes hold it as text
        return path.resolve()
    except (OSError, UserFileError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"ABQ_DATA_DIR is {text[:80]!r}, which cannot be used: {reason}. Name another folder."
        ) from error


def _threads(text: str) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if not text:
        return cores
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise SettingsError(
            f"ABQ_THREADS is {text[:80]!r}. Use a whole number from 1 to {cores} (this machine's cores)."
        )
    return min(int(text), cores)


def _device(text: str) -> str:
    device = text.strip().lower() or "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", device):
        raise SettingsError(f"ABQ_DEVICE is {text[:80]!r}. Use cpu, cuda or cuda:0.")
    return device


def _niceness(text: str) -> int:
    if not text:
        return NICENESS
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) > NICENESS:
        raise SettingsError(f"ABQ_NICENESS is {text[:80]!r}. Use a whole number from 0 to {NICENESS}.")
    return int(text)
