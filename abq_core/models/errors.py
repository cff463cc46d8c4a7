"""Errors of models.

ModelError
├── ChatTemplateError    the model has no chat template, or its template fails or exceeds a limit
├── ModelNotFoundError   the model does not exist, or the hub cannot be reached
└── UnsafeModelError     loading it could run code or exhaust memory
"""

STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit)  # every other BaseException is an error, such as a Rust panic


class ModelError(ValueError):
    """A model that cannot be used: unsupported, incomplete or damaged."""


class ChatTemplateError(ModelError):
    """A chat template that is missing, refuses a conversation, or exceeds a limit."""


class ModelNotFoundError(ModelError):
    """A reference without a model behind it, or one that cannot be reached."""


class UnsafeModelError(ModelError):
    """A model that was refused before any of its files were loaded."""
