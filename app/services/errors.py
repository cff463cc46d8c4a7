"""The error that services raise."""


class ServiceError(ValueError):
    """A request that a service refuses; the message says why and what to do."""
