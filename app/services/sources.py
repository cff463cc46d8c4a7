"""Models and texts that the services of a process may read."""

from app.services.local_path import local_path


class Sources:
    """Allows every model and text.

    The command line reads what its account can read. The page uses a subclass.
    """

    def model(self, ref: str) -> str:
        """The reference by which a model is read. Raises ServiceError if it may not be read, ModelError."""
        return ref

    def stored_model(self, ref: str) -> str:
        """The reference under which runs and measurements of a model are stored: an absolute path, or with its commit.

        The path is not looked at before it is allowed. Raises as `model` does.
        """
        from abq_core.models.reference import pinned

        return pinned(local_path(self.model(ref)))

    def imported(self, ref: str) -> str:
        """The reference by which an import is read. Raises as `model` does."""
        return ref

    def check_text(self, source: str, account: str | None = None) -> None:
        """Raises ServiceError if the text may not be read. account: of the page's visitor who names it."""
