"""Opens the services for one command, and says what its model is."""

from typing import TYPE_CHECKING

import typer

from app import formatting
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


def tell_stored_weights(services: "Services", model: str) -> None:
    """Say on stderr if the model's file was already quantized: its values are the full precision of the command."""
    stored = services.models.stored_weights(model)
    if stored is not None and stored.quantized:
        typer.echo(
            f"{model} is already quantized: {formatting.stored_weights(stored)}. Full precision means these values.",
            err=True,
        )
