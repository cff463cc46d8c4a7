"""The service of KV caches: every size once, of a model and of a run, on the figure and the command line."""

import json
from pathlib import Path

import pytest

from app.cli.main import main
from app.figures.lenses.kv_cache import kv_cache_figure
from app.services import ServiceError, Services, models
from app.services.lenses import kv_cache
from app.services.lenses.kv_cache import ALL, BITS, MASS, PARTS, WINDOW
from storage.errors import RunNotFoundError
from storage.jobs import Job


def test_sizes_are_measured_once_and_drawn(services: Services, tiny_llama: Path) -> None:
    service = services.lenses.kv_cache
    subject = service.subject(str(tiny_llama), 64)
    assert service.known(subject) is None
    steps: list[tuple[int, int]] = []
    found = service.measure(subject, lambda *step: steps.append(step))
    assert service.measure(subject) is found is service.known(subject)
    assert len(found) == len(BITS) * (1 + 2 * len(PARTS)) == len(steps) == steps[0][1]
    whole = found.iloc[0]
    assert (whole["kept"], whole["bits"], whole["tokens"]) == (ALL, 16, 64)
    assert whole["kl_mean"] == pytest.approx(0, abs=1e-6)
    by_size = found.set_index(["kept", "bits", "tokens"])
    assert by_size.loc[(ALL, 2, 64), "kl_mean"] > by_size.loc[(ALL, 8, 64), "kl_mean"] > 0
    for kept in (WINDOW, MASS):
        assert by_size.loc[(kept, 16, 8), "kl_mean"] > by_size.loc[(kept, 16, 32), "kl_mean"] > 0
        assert by_size.loc[(kept, 16, 32), "bytes"] * 2 == whole["bytes"]
    for dark in (False, True):
        lines = kv_cache_figure(found, dark).data
        assert len(lines) == 2 * len(BITS)
        assert all(len(line.x) == 1 + len(PARTS) and list(line.x) == sorted(line.x, reverse=True) for line in lines)
    assert not kv_cache_figure(found.iloc[:0]).data


def test_a_run_is_measured_with_its_own_weights(
    finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    services, job = finished
    monkeypatch.setattr(kv_cache, "BITS", (16, 4))
    monkeypatch.setattr(kv_cache, "PARTS", (4,))
    found = services.lenses.kv_cache.measure(services.lenses.kv_cache.subject(job.run_id, 64))
    assert found["kl_mean"].iloc[0] > 1e-4  # that of its weights and activations
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["kv", job.run_id, "--tokens", "64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["sizes"]
    assert [one["kl_mean"] for one in told] == pytest.approx(list(found["kl_mean"]), rel=1e-4)
    assert main(["kv", job.run_id, "--tokens", "9"]) == 2 and "64 to 2048" in capsys.readouterr().err


def test_refusals(services: Services, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = services.lenses.kv_cache
    with pytest.raises(RunNotFoundError):
        service.subject("r-0000000000")
    with pytest.raises(ServiceError, match="4000 tokens per text"):
        service.subject("builtin", 4000)
    monkeypatch.setattr(models, "MOST_SIMULATED", 1000)
    with pytest.raises(ServiceError, match="at most 1,000"):
        service.measure(service.subject(str(tiny_llama), 64))
