"""The sliding window of a rate limit."""

from app.web.access.rates import MAX_KEYS, RateLimit


def test_a_rate_limit_has_a_sliding_window_and_bounded_memory() -> None:
    time = [0.0]
    rate = RateLimit(2, 10, lambda: time[0])
    assert [rate.hit("a"), rate.hit("a"), rate.hit("a"), rate.hit("b")] == [0, 0, 10, 0]
    assert (rate.wait("a"), rate.wait("b"), rate.wait("c")) == (10, 0, 0)
    assert (rate.count("a"), rate.count("b"), rate.count("c")) == (2, 1, 0)
    time[0] = 10.0
    assert rate.wait("a") == rate.count("a") == 0
    assert rate.hit("a") == 0
    for key in range(2 * MAX_KEYS):
        rate.hit(str(key))
    assert len(rate._times) == MAX_KEYS
