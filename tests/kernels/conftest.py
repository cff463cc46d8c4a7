"""A GPU for tests that need one: the emulator in place of the driver."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated_cuda import EmulatedGpu

from kernels.cuda import decode_attention, driver, engine, int8


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EmulatedGpu]:
    emulated = EmulatedGpu()
    monkeypatch.setenv("ABQ_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setattr(driver, "device", lambda index: emulated)
    caches = (engine.works, engine._table, decode_attention.works, int8.works)
    for cached in caches:
        cached.cache_clear()
    yield emulated
    for cached in caches:
        cached.cache_clear()
