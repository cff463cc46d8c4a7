"""Opens the services for one command."""

from typing import TYPE_CHECKING

from app.settings import Settings
from kernels.environment import check_environment

if TYPE_CHECKING:
    from app.services import Services


def open_services(settings: Settings | None = None) -> "Services":
    """Check the environment, then open the services.

    Raises KernelsNameError, SettingsError, DatabaseError.
    """
    from app import services  # pandas takes a second to import

    check_environment()
    return services.open_services(settings or Settings.from_environment())
