"""Decode columns of a GPU, with the CPU as a stand-in.

Their modules, dtypes and stored rows.
"""

from types import SimpleNamespace

import pytest
import torch

from abq_core.inference.int8_linear import Int8Linear
from abq_core.models.architectures import blocks_of
from abq_core.quantization.quant_linear import PackedLinear
from app.services import Services
from app.services.errors import ServiceError
from app.services.speed.decode_columns import gpu_column
from storage.jobs import Job


def test_every_column_is_stored_under_the_name_of_the_gpu(
    finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    services, job = finished
    gpu = SimpleNamespace(name="A stand-in GPU", place="cpu")
    monkeypatch.setattr("kernels.gpu.device", lambda index: gpu)
    columns = ["fp16", "bf16", "int8", "W2A8", job.run_id]
    frame = services.throughput.time_decode(columns, 3, services.runs.get(job.run_id).model, device="cuda")
    assert list(frame["column"]) == columns and (frame["tokens_per_second"] > 0).all()
    paths, sizes = (frame.set_index("column")[name] for name in ("path", "weight_bytes"))
    assert "fp16" in paths["fp16"] and "bf16" in paths["bf16"] and "_int_mm" in paths["int8"]
    assert paths["W2A8"].startswith("abq ") and paths[job.run_id].startswith("abq ")
    assert sizes["fp16"] == sizes["bf16"] and sizes["W2A8"] < sizes["int8"] < sizes["fp16"]
    stored = services.timings.frame()
    assert set(stored[stored["machine"].eq(gpu.name)]["kind"]) == {"decode"}


def test_all_but_the_linears_of_blocks_is_in_16_bits(finished: tuple[Services, Job]) -> None:
    services, job = finished
    ref = services.runs.get(job.run_id).model
    kinds = {"fp16": torch.nn.Linear, "int8": Int8Linear, "W4A8": PackedLinear, "bf16": torch.nn.Linear}
    for column, kind in kinds.items():
        model = gpu_column(services.registry, column, ref, "cpu").model
        assert type(blocks_of(model)[0].mlp.up_proj) is kind
        wanted = torch.bfloat16 if column == "bf16" else torch.float16
        assert {parameter.dtype for parameter in model.parameters()} == {wanted}
    with pytest.raises(ServiceError, match="use fp16"):
        gpu_column(services.registry, "fp32", ref, "cpu")
