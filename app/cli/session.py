"""The services that a command works with."""

from typing import TYPE_CHECKING

from app.settings import Settings
from kernels.environment import check_environment

if TYPE_CHECKING:
    from app.services import Explorer


def open_explorer(settings: Settings | None = None) -> "Explorer":
    """Check the environment, then open what is kept. Raises KernelsNameError, SettingsError, DatabaseError."""
    from app.services import Explorer

    check_environment()
    return Explorer.open(settings or Settings.from_environment())
