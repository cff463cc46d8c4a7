"""What can be wrong with a model that somebody names.

ModelError
├── ModelNotFoundError   there is no model at that place
└── UnsafeModelError     it could run code, or hurt the machine, on the way in
"""


class ModelError(ValueError):
    """A model that cannot be used: unsupported, incomplete or damaged."""


class ModelNotFoundError(ModelError):
    """No model at that place, or it cannot be reached."""


class UnsafeModelError(ModelError):
    """A model that was refused before any of it was loaded."""
