"""The registry.

Each model is loaded once, and the least recently used are evicted before the next one is loaded.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from app_cases import SpecMaker, work_on

from abq_core.calibration.quantized_block import MissingBlockError
from abq_core.models import reference
from app.services import ServiceError, Services
from app.services.registry import BUILTIN, ModelRegistry
from storage.jobs import Job


def test_models_are_loaded_once_and_least_recently_used_ones_evicted(
    finished: tuple[Services, Job], tiny_llama: Path
) -> None:
    services, _ = finished
    registry = ModelRegistry(services.settings, services.storage.runs, max_models=2)
    full = registry.full(str(tiny_llama))
    first = registry.column("W2A8", str(tiny_llama))
    assert registry.full(str(tiny_llama)) is full and registry.column("W2A8", str(tiny_llama)) is first
    registry.column("W3A8", str(tiny_llama))
    assert registry.column("W2A8", str(tiny_llama)) is not first


def test_models_are_evicted_before_the_next_one_is_loaded(
    services: Services, tiny_llama: Path, tiny_opt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(p.numel() * 4 for p in services.registry.full(str(tiny_llama)).model.parameters())
    registry = ModelRegistry(services.settings, services.storage.runs, max_bytes=int(1.5 * size))
    first = registry.full(str(tiny_llama))
    assert registry.full(str(tiny_llama)) is first
    held: list[int] = []
    monkeypatch.setattr(
        "abq_core.models.loading.load_model", lambda ref, device: held.append(len(registry._loaded)) or first
    )
    registry.full(str(tiny_opt))
    assert held == [0]  # the first model was evicted before the second was loaded
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000, "total": 1000})())
    with pytest.raises(ServiceError, match=r"of memory in fp32, and 0\.00 MiB are free"):
        ModelRegistry(services.settings, services.storage.runs).full(str(tiny_llama))


def test_a_modified_block_is_refused(services: Services, tiny_spec: SpecMaker) -> None:
    job = work_on(services, services.jobs.submit(tiny_spec("W4A8", "rtn")))
    path = services.runs.folder(job.run_id).block_path(1)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    services.registry.forget(job.run_id)
    with pytest.raises(MissingBlockError):
        list(services.generation.generate([job.run_id], "The module", 2))


def test_columns_have_one_model(services: Services, tiny_spec: SpecMaker, tiny_opt: Path) -> None:
    job = services.jobs.submit(tiny_spec())
    other = services.storage.jobs.submit({**job.spec, "model": str(tiny_opt)}, job.created_at)
    assert services.registry.common_model(["full", "W4A4"], "builtin") == "builtin"
    assert services.registry.common_model(["full", job.run_id], "builtin") == job.spec["model"]
    with pytest.raises(ServiceError, match="different models"):
        services.registry.common_model([job.run_id, other.run_id], "builtin")


def test_the_built_in_model_has_one_name() -> None:
    assert BUILTIN == reference.BUILTIN


def test_a_loaded_model_is_found_while_another_one_is_loaded(
    services: Services, tiny_llama: Path, tiny_opt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = services.registry
    first = registry.full(str(tiny_llama))
    loading, go_on = threading.Event(), threading.Event()

    def load(ref: str, device: str) -> object:
        loading.set()
        assert go_on.wait(30)
        return first

    monkeypatch.setattr("abq_core.models.loading.load_model", load)
    with ThreadPoolExecutor(2) as threads:
        second = threads.submit(registry.full, str(tiny_opt))
        try:
            assert loading.wait(30)
            assert threads.submit(registry.full, str(tiny_llama)).result(30) is first
        finally:
            go_on.set()
        assert second.result(30) is first
