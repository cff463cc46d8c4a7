"""The database of one process: its tables, and the version that makes cached reads stale."""

import time
from dataclasses import dataclass

from app.services.versioned_cache import Version
from app.settings import Settings
from storage.database import Database
from storage.jobs import Jobs
from storage.measurements import Measurements
from storage.runs import Runs

STALE_SECONDS = 0.5  # after this time a cached read is repeated: another process may have written


@dataclass(frozen=True)
class Storage:
    """An open database and the tables in it."""

    database: Database
    jobs: Jobs
    runs: Runs
    measurements: Measurements

    @classmethod
    def open(cls, settings: Settings) -> "Storage":
        """Create the data folder and open the database. Raises SettingsError, DatabaseError."""
        settings.prepare()
        database = Database.open(settings.database_url)
        return cls(database, Jobs(database), Runs(database), Measurements(database))

    def version(self) -> Version:
        """Cache version: (local write count, STALE_SECONDS interval). Stale when either advances."""
        return self.database.writes, int(time.monotonic() / STALE_SECONDS)
