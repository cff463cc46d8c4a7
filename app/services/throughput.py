"""How fast: the kernels' own benchmark, and decoding of whole models in turn. Stores what it measures."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import nn

from abq_core.inference.embeddings import embeddings_to_bfloat16
from abq_core.inference.generate import Finished, generate
from abq_core.inference.int8_linear import Int8Linear
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import linear_path, weight_bytes
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from app.clock import now
from app.services.errors import ServiceError
from app.services.timings import this_device
from kernels.benchmark.matmul import bench_kernels
from kernels.measurement import KernelMeasurement

if TYPE_CHECKING:
    from app.services.explorer import Explorer
    from kernels.gpu import CudaDevice

PROMPT = "The following functions are"
WARM_UP_TOKENS = 3
TORCH_COLUMNS = ("fp32", "bf16", "int8")
DECODE_COLUMNS = [
    "column", "path", "tokens", "tokens_per_second", "first_token_seconds", "weight_bytes", "threads", "model",
]  # fmt: skip


def measure_kernels(
    explorer: "Explorer",
    precisions: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    m: Sequence[int],
    threads: int,
    on_measurement: Callable[[KernelMeasurement], None] | None,
    peers: Sequence[str] = ("torch",),
) -> list[KernelMeasurement]:
    """Run the CPU kernels' benchmark and store every row."""
    measured = bench_kernels(list(precisions), list(shapes), list(m), threads, on_measurement, peers)
    _store(explorer, this_device(), measured)
    return measured


def measure_gpu(
    explorer: "Explorer",
    precisions: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    m: Sequence[int],
    on_measurement: Callable[[KernelMeasurement], None] | None,
) -> list[KernelMeasurement]:
    """Run the GPU kernels' benchmark and store every row under the GPU's name. Raises CudaError without a GPU."""
    from kernels.cuda.bench import bench_gpu

    gpu = _gpu()
    measured = bench_gpu(gpu, list(precisions), list(shapes), list(m), on_measurement)
    _store(explorer, gpu.name, measured)
    return measured


def _store(explorer: "Explorer", device: str, measured: Sequence[KernelMeasurement]) -> None:
    for measurement in measured:
        explorer.measurements.add_throughput(now(), device, {"kind": "kernel", **asdict(measurement)})


def measure_decode(
    explorer: "Explorer",
    columns: Sequence[str],
    tokens: int,
    model: str,
    on_token: Callable[[int], None] | None = None,
    device: str = "cpu",
) -> pandas.DataFrame:
    """Decode the same prompt in every column, one token each in turn, after a warm-up. Stores all columns or none.

    device: "cpu" or "cuda".  Raises CudaError without a GPU.
    """
    if not columns or tokens < 2:
        raise ServiceError(
            f"Nothing to measure: {len(columns)} columns and {tokens} tokens; use 1 column and 2 tokens or more."
        )
    gpu = None if device == "cpu" else _gpu()
    ref = explorer.registry.common_model(columns, model)
    if gpu is None:
        loaded = {column: _column(explorer, column, ref) for column in columns}
    else:
        loaded = {column: gpu_column(explorer, column, ref, gpu.place) for column in columns}
    list(generate(loaded, None, PROMPT, WARM_UP_TOKENS))
    ends = list[Finished]()
    for event in generate(loaded, None, PROMPT, tokens):
        if isinstance(event, Finished):
            ends.append(event)
        elif on_token is not None and event.column == columns[0]:
            on_token(event.index + 1)
    measured_on, rows = this_device() if gpu is None else gpu.name, []
    for end in sorted(ends, key=lambda end: columns.index(end.column)):
        row: dict[str, Any] = {
            "column": end.column,
            "path": path_of(loaded[end.column]),
            "tokens": end.tokens,
            "tokens_per_second": end.tokens_per_second,
            "first_token_seconds": end.first_token_seconds,
            "weight_bytes": held_bytes(loaded[end.column]),
            "threads": torch.get_num_threads(),
            "model": ref,
        }
        explorer.measurements.add_throughput(now(), measured_on, {"kind": "decode", **row})
        rows.append(row)
    return pandas.DataFrame(rows, columns=DECODE_COLUMNS)


def _gpu() -> "CudaDevice":
    from kernels.gpu import device

    return device(0)


def _column(explorer: "Explorer", column: str, ref: str) -> LoadedModel:
    full = explorer.registry.full(ref)
    if column == "bf16":
        return bf16(full)
    if column == "int8":
        return dynamic_int8(full)
    return full if column == "fp32" else explorer.registry.column(column, ref)


def gpu_column(explorer: "Explorer", column: str, ref: str, place: str) -> LoadedModel:
    """A column on a GPU, where all that is no linear of a block is float16, but for bf16. Raises ServiceError."""
    if column == "fp32":
        raise ServiceError("fp32 is no column on a GPU, where nobody decodes with it: use fp16.")
    if column == "bf16":
        return to_device(explorer.registry.full(ref), place, torch.bfloat16)
    if column in ("fp16", "int8"):
        full = to_device(explorer.registry.full(ref), place, torch.float16)
        return full if column == "fp16" else to_int8(full)
    return to_device(explorer.registry.column(column, ref), place, torch.float16)


def bf16(full: LoadedModel) -> LoadedModel:
    """The model with its weights in bfloat16, where it is."""
    return to_device(full, str(full.model.device), torch.bfloat16)


def dynamic_int8(full: LoadedModel) -> LoadedModel:
    """torch's own dynamic int8 on the linears of the blocks, the same ones that the engine replaces; embedding and head
    as the engine's models have them.
    """
    model = copy.deepcopy(full.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that quantized tensors will go
        for block in blocks_of(model):
            torch.ao.quantization.quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8, inplace=True)
    embeddings_to_bfloat16(model)
    return replace(full, model=model)


def path_of(model: LoadedModel) -> str:
    """What the linears of the blocks run on, and on a GPU how they are launched."""
    if _quantized_by_torch(model):
        return f"torch dynamic int8 ({torch.backends.quantized.engine})"
    launched = ""
    if model.model.device.type == "cuda":
        launched = ", kernel by kernel" if model.decoder is None else ", in a CUDA graph"
    return linear_path(model) + launched


def held_bytes(model: LoadedModel) -> int:
    """Bytes of the weights of the blocks' linears as they are held in memory."""
    if by_torch := _quantized_by_torch(model):
        return sum(m.weight().numel() + 4 * m.out_features for m in by_torch)
    modules = [module for block in blocks_of(model.model) for module in block.modules()]
    if model.precision.is_full and not any(isinstance(module, Int8Linear) for module in modules):
        return sum(m.weight.nbytes for m in modules if isinstance(m, nn.Linear))
    return weight_bytes(model)


def _quantized_by_torch(model: LoadedModel) -> list[Any]:
    return [m for m in blocks_of(model.model).modules() if isinstance(m, torch.ao.nn.quantized.Linear)]
