"""Thread counts, and ranges that cover the work exactly once."""

import threading

import pytest

from kernels.host.threads import ThreadsError, cores, run_ranges, thread_count


def test_never_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABQ_THREADS", raising=False)
    assert thread_count() == cores()
    assert thread_count(10**6) == cores()
    assert thread_count(1) == 1


def test_the_environment_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABQ_THREADS", "1")
    assert thread_count() == 1
    assert thread_count(cores()) == cores()


@pytest.mark.parametrize("text", ["many", "", "-1", "1.5"])
def test_a_setting_that_is_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ABQ_THREADS", text)
    with pytest.raises(ThreadsError, match=f"ABQ_THREADS is '{text}'"):
        thread_count()


def test_zero_threads_are_refused() -> None:
    with pytest.raises(ThreadsError, match="number of threads is 0"):
        thread_count(0)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 17, 64])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_ranges_cover_the_work_once(count: int, threads: int) -> None:
    seen: list[int] = []
    lock = threading.Lock()

    def work(first: int, last: int) -> None:
        with lock:
            seen.extend(range(first, last))
        assert first % 4 == 0

    run_ranges(work, count, 4, threads)
    assert sorted(seen) == list(range(count))


def test_an_error_in_a_part_is_raised() -> None:
    def work(first: int, last: int) -> None:
        if first > 0:
            raise ArithmeticError("second part")

    with pytest.raises(ArithmeticError, match="second part"):
        run_ranges(work, 8, 4, 2)
