"""The private parts of Numba in `numba_internals` still exist and behave as expected."""

import inspect

import numba
import pytest
from numba import njit
from numba.core.caching import FunctionCache
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

from kernels.host.numba_internals import SourceHashCache, compiled_features, use_cache

CHANGED = (
    f"Numba {numba.__version__} changed {{}}, which kernels/host/numba_internals.py uses. Adapt that file, or require "
    "an older Numba in pyproject.toml."
)


def double(x: int) -> int:
    return 2 * x


def test_features_are_the_third_part_of_the_code_generator_s_tuple() -> None:
    parts = cpu_target.target_context.codegen().magic_tuple()
    assert len(parts) == 3 and all(isinstance(part, str) for part in parts), CHANGED.format("magic_tuple")
    assert all(not name.startswith(("+", "-")) for name in compiled_features())


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("load_overload", ["self", "sig", "target_context"]),
        ("_load_overload", ["self", "sig", "target_context"]),
        ("_index_key", ["self", "sig", "codegen"]),
        ("_guard_against_spurious_io_errors", ["self"]),
    ],
)
def test_the_cache_has_the_methods_that_are_overridden_or_called(method: str, parameters: list[str]) -> None:
    found = getattr(FunctionCache, method, None)
    assert found is not None, CHANGED.format(f"FunctionCache.{method}")
    assert list(inspect.signature(found).parameters) == parameters, CHANGED.format(f"FunctionCache.{method}")


def test_the_runtime_can_be_initialized_for_a_target() -> None:
    assert callable(getattr(rtsys, "initialize", None)), CHANGED.format("rtsys.initialize")


def test_a_dispatcher_uses_the_cache_it_is_given() -> None:
    dispatcher = njit(cache=True)(double)
    assert isinstance(getattr(dispatcher, "_cache", None), FunctionCache), CHANGED.format("Dispatcher._cache")
    calls = []
    use_cache(dispatcher, SourceHashCache(double, lambda: calls.append("hash") or "hash"))
    assert dispatcher(21) == 42
    assert calls, CHANGED.format("Dispatcher._cache")
