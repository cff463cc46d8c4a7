"""One log line a second for each kind of message."""

import logging

from app.web.log_rate import OncePerSecond


def record(message: str, *values: object, error: Exception | None = None) -> logging.LogRecord:
    raised = None if error is None else (type(error), error, None)
    return logging.LogRecord("asyncio", logging.ERROR, "", 0, message, values, raised)


def test_repeated_messages_are_counted() -> None:
    time = 0.0
    once = OncePerSecond(lambda: time)
    assert [once.filter(record("Closed %s.", number)) for number in range(300)] == [True] + 299 * [False]
    time = 1.0
    later = record("Closed %s.", "it")
    assert once.filter(later) and later.getMessage() == "Closed it. (299 more since the last such line)"
    time = 2.0
    last = record("Closed %s.", "it")
    assert once.filter(last) and last.getMessage() == "Closed it."


def test_other_messages_and_other_errors_are_logged() -> None:
    once = OncePerSecond(lambda: 0.0)
    records = [
        record("one"),
        record("two\nsocket 1"),
        record("one", error=OSError()),
        record("one", error=ValueError()),
    ]
    assert all(once.filter(one) for one in records)
    assert not once.filter(record("two\nsocket 2"))
