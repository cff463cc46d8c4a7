"""Memory of loaded models: eviction, and refusal of a model that does not fit."""

from pathlib import Path

import pytest

from app.services import ServiceError, Services
from app.services.registry import ModelRegistry


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
    with pytest.raises(ServiceError, match=r"takes 0\.38 MiB of memory"):
        ModelRegistry(services.settings, services.storage.runs).full(str(tiny_llama))
