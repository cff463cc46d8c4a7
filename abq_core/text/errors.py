"""Errors of texts.

DataError
└── ShortTextError   the text has fewer segments than requested
"""


class DataError(ValueError):
    """A text that does not exist, cannot be read, or does not fit the request."""


class ShortTextError(DataError):
    """A text with too few tokens. available: the number of segments that it has.  tokens: those of the whole split."""

    def __init__(self, message: str, available: int, tokens: int) -> None:
        super().__init__(message, available, tokens)  # all of them, so that it can be pickled
        self.available, self.tokens = available, tokens

    def __str__(self) -> str:
        return str(self.args[0])
