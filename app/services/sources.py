"""Models and texts that the services of a process may read."""


class Sources:
    """Allows every model and text.

    The command line reads what its account can read. The page uses a subclass.
    """

    def check_model(self, ref: str) -> None:
        """Raises ServiceError if the model may not be read."""

    def check_text(self, source: str) -> None:
        """Raises ServiceError if the text may not be read."""
