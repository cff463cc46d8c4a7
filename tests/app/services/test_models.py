"""Models: explored once for all threads, from a cache of limited size."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest

from abq_core.mix import ModelPrecision
from abq_core.precision import Precision, PrecisionError
from app.services import Services
from app.services.models import MAX_EXPLORED
from storage.jobs import Job

Explore = Callable[[object, ModelPrecision], dict[str, pandas.DataFrame]]


@pytest.fixture
def replace_explore(services: Services, monkeypatch: pytest.MonkeyPatch) -> Callable[[Explore], None]:
    """Replaces the exploration of a model, and the model itself."""

    def replace(explore: Explore) -> None:
        monkeypatch.setattr(services.registry, "full", lambda ref: None)
        monkeypatch.setattr("abq_core.analysis.explore.explore", explore)

    return replace


def test_explore_is_computed_once(finished: tuple[Services, Job]) -> None:
    services, job = finished
    model = services.runs.get(job.run_id).model
    first = services.models.explore(model, "W2*A8")
    assert services.models.explore(model, "w2*a8") is first and not first["levels"].empty
    with pytest.raises(PrecisionError):
        services.models.explore(model, "W9A9")


def test_threads_that_explore_the_same_wait_for_one_result(
    services: Services, replace_explore: Callable[[Explore], None]
) -> None:
    calls: list[str] = []
    started, finish = threading.Event(), threading.Event()

    def explore(model: object, precision: ModelPrecision) -> dict[str, pandas.DataFrame]:
        calls.append(str(precision))
        started.set()
        assert finish.wait(60)
        return {}

    replace_explore(explore)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(services.models.explore, "builtin", "W4A4")
        assert started.wait(60)
        others = [pool.submit(services.models.explore, "builtin", "W4A4") for _ in range(3)]
        finish.set()
        assert all(other.result() is first.result() for other in others)
    assert calls == ["W4A4"]


class PausingName(str):
    """A model name that pauses when it is hashed a second time, so that another thread runs between two look-ups."""

    hashed = 0

    def __new__(cls, text: str, pause: Callable[[], None]) -> "PausingName":
        name = super().__new__(cls, text)
        name.pause = pause
        return name

    def __hash__(self) -> int:
        self.hashed += 1
        if self.hashed == 2:
            self.pause()
        return super().__hash__()


def test_a_result_that_another_thread_evicts_is_still_returned(
    services: Services, replace_explore: Callable[[Explore], None]
) -> None:
    precisions = [Precision.parse(f"W{bits}A{other}") for bits in range(2, 9) for other in (4, 8)]
    replace_explore(lambda model, precision: {str(precision): pandas.DataFrame()})

    def evict() -> None:
        for precision in precisions[1 : MAX_EXPLORED + 1]:
            services.models.explore("builtin", precision)

    other = threading.Thread(target=evict)

    def pause() -> None:
        other.start()
        other.join(0.5)  # a reader that holds the cache's lock lets the other thread in only afterwards

    services.models.explore("builtin", precisions[0])
    assert list(services.models.explore(PausingName("builtin", pause), precisions[0])) == [str(precisions[0])]
    other.join()


def test_an_error_is_not_cached(services: Services, replace_explore: Callable[[Explore], None]) -> None:
    results: list[Callable[[], dict[str, pandas.DataFrame]]] = [lambda: {}[""], dict]
    replace_explore(lambda model, precision: results.pop(0)())
    with pytest.raises(KeyError):
        services.models.explore("builtin", "W4A4")
    assert services.models.explore("builtin", "W4A4") == {}


def test_the_cost_of_tables_is_measured_once(
    services: Services, tiny_opt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, precision = str(tiny_opt), Precision.parse("W2A8h3e3")
    assert services.models.known_table_cost(ref, precision) is None
    coarse = services.models.table_cost(ref, precision)
    fine = services.models.table_cost(ref, Precision.parse("W2A8h8e8"))
    assert 0 < fine.kl_mean < coarse.kl_mean and fine.same_top > coarse.same_top
    monkeypatch.setattr("abq_core.evaluation.table_cost.table_cost", None)  # not called again
    for same in ("W2A8h3e3", "W4*A16h3e3"):  # the precision of the blocks does not matter
        assert services.models.table_cost(ref, Precision.parse(same)) is coarse
        assert services.models.known_table_cost(ref, Precision.parse(same)) is coarse
    assert services.models.known_table_cost(ref, Precision.parse("W2A8h3e4")) is None


def test_a_tied_table_has_one_number(services: Services, tiny_llama: Path, tiny_opt: Path) -> None:
    tied, untied, head = str(tiny_opt), str(tiny_llama), Precision.parse("W4A8h8")
    assert str(services.models.resolved(tied, head)) == "W4A8h8e8" and services.models.resolved(untied, head) == head
    with pytest.raises(PrecisionError, match="one table"):
        services.models.resolved(tied, Precision.parse("W4A8h8e4"))
