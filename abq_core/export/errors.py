"""Errors of an export."""


class ExportError(ValueError):
    """A run that a format cannot hold, or a target that cannot be written; the message says what to do."""
