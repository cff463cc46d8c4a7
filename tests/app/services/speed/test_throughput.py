"""Throughput: decoding of whole models, each column on its own path."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.services import ServiceError, Services
from app.services.speed.throughput import ThroughputService
from storage.jobs import Job


def test_every_decode_column_names_its_path_and_size(finished: tuple[Services, Job]) -> None:
    services, job = finished
    frame = services.throughput.time_decode(
        ["fp32", "bf16", "int8", "W2A8", job.run_id], 4, services.runs.get(job.run_id).model
    )
    assert (frame["tokens_per_second"] > 0).all()
    paths = frame.set_index("column")["path"]
    assert "fp32" in paths["fp32"] and "bf16" in paths["bf16"] and "int8" in paths["int8"]
    assert paths["W2A8"].startswith("abq ") and paths[job.run_id].startswith("abq ")
    sizes = frame.set_index("column")["weight_bytes"]
    assert sizes["fp32"] == 2 * sizes["bf16"] and sizes["W2A8"] < sizes["int8"] < sizes["bf16"]
    assert "decode" in set(services.timings.frame()["kind"])


@pytest.mark.parametrize(("columns", "tokens"), [([], 4), (["fp32"], 1)])
def test_a_benchmark_of_nothing_is_refused(services: Services, columns: list[str], tokens: int) -> None:
    with pytest.raises(ServiceError, match="at least 1 column and 2 tokens"):
        services.throughput.time_decode(columns, tokens)


def test_a_profile_is_stored_with_its_parts(finished: tuple[Services, Job]) -> None:
    services, job = finished
    seen: list[str] = []
    model = services.runs.get(job.run_id).model
    (found,) = services.throughput.profile_decode([job.run_id], 4, model, lambda column, _: seen.append(column))
    assert set(seen) == {job.run_id}
    stored = services.timings.frame()
    row = stored[stored["kind"].eq("profile")].iloc[0]
    assert row["parts"] == found["parts"] and row["seconds"] == found["seconds"] > 0
    assert row["column"] == job.run_id and row["model"] == model
    with pytest.raises(ServiceError, match="at least 1 column and 2 tokens"):
        services.throughput.profile_decode([], 4)


def test_kernel_timings_are_kept_when_the_rest_is_stopped(services: Services) -> None:
    seen: list[object] = []

    def stop(measurement: object) -> None:
        seen.append(measurement)
        if len(seen) == 2:
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        services.throughput.time_kernels(["W2A8", "W4A8"], [(64, 64)], [1], 1, stop)
    assert len(services.timings.frame()) == 2


def test_models_on_a_gpu_are_not_timed_as_the_cpu_s(services: Services, tiny_llama: Path) -> None:
    other = replace(services.settings, device="cuda")
    throughput = ThroughputService(other, services.storage.measurements, services.registry)
    for measure in (throughput.time_decode, throughput.profile_decode):
        with pytest.raises(ServiceError, match="on cuda"):
            measure(["W2A8"], 4, str(tiny_llama))
