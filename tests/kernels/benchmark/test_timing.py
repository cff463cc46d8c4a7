"""Alternating timing: the clock, the copies, and the size beyond the caches."""

import time
from collections.abc import Callable

import pytest

from kernels.benchmark import timing
from kernels.benchmark.timing import alternate, copies_beyond_cache, last_level_cache


def test_one_thread_is_timed_by_its_cpu_clock() -> None:
    alone = alternate([[lambda: time.sleep(0.002)]], 1, 0.05)[0]
    wall = alternate([[lambda: time.sleep(0.002)]], 2, 0.05)[0]
    assert max(alone.warm) < 0.002 <= min(wall.warm)


def test_cold_calls_rotate_over_the_copies_and_warm_calls_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 0)  # one call per sample
    calls: list[str] = []

    def product(name: str) -> Callable[[], None]:
        return lambda: calls.append(name)

    samples = alternate([[product("a0"), product("a1"), product("a2")], [product("b0")]], 1, 0)
    rounds = len(samples[0].cold)
    assert rounds == len(samples[1].warm) == timing._MIN_ROUNDS
    timed = [call for call in calls[4:] if call.startswith("a")]
    assert timed[::3] == [f"a{i % 3}" for i in range(rounds)]
    assert timed[1::3] == timed[2::3] == ["a0"] * rounds
    assert calls[4:8] == ["a0", "a0", "a0", "b0"]
    assert calls[4:].count("b0") == 2 * rounds  # with a single copy, the cold call warms the cache


def test_copies_exceed_the_last_level_cache() -> None:
    cache = last_level_cache()
    assert cache >= 1 << 18
    for nbytes in (cache // 10, cache, 3 * cache):
        assert copies_beyond_cache(nbytes) * nbytes >= 2 * cache
    assert copies_beyond_cache(3 * cache) == 1
    assert copies_beyond_cache(1) == 128
