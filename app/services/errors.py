"""The error of a service that cannot do what was asked."""


class ServiceError(ValueError):
    """What was asked cannot be done; the message says why and what to do."""
