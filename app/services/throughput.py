"""How fast: the kernels' own benchmark, and decoding of whole models in turn. Stores what it measures."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import nn

from abq_core.architectures import blocks_of
from abq_core.generate import Finished, generate
from abq_core.models import LoadedModel
from abq_core.quant_linear import PackedLinear
from abq_core.runtime import weight_bytes
from abq_core.tables import halve_tables
from app.clock import now
from app.services.errors import ServiceError
from app.services.timings import this_device
from kernels.bench import KernelMeasurement, bench_kernels
from kernels.dispatch import path_for

if TYPE_CHECKING:
    from app.services.explorer import Explorer

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
    from kernels.cuda import driver
    from kernels.cuda.bench import bench_gpu

    gpu = driver.device(0)
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
) -> pandas.DataFrame:
    """Decode the same prompt in every column, one token each in turn, after a warm-up. Stores all columns or none."""
    if not columns or tokens < 2:
        raise ServiceError(
            f"Nothing to measure: {len(columns)} columns and {tokens} tokens; use 1 column and 2 tokens or more."
        )
    ref = explorer.registry.common_model(columns, model)
    loaded = {column: _column(explorer, column, ref) for column in columns}
    list(generate(loaded, None, PROMPT, WARM_UP_TOKENS))
    ends = []
    for event in generate(loaded, None, PROMPT, tokens):
        if isinstance(event, Finished):
            ends.append(event)
        elif on_token is not None and event.column == columns[0]:
            on_token(event.index + 1)
    device, rows = this_device(), []
    for end in sorted(ends, key=lambda end: columns.index(end.column)):
        row: dict[str, Any] = {
            "column": end.column,
            "path": path_of(end.column, loaded[end.column]),
            "tokens": end.tokens,
            "tokens_per_second": end.tokens_per_second,
            "first_token_seconds": end.first_token_seconds,
            "weight_bytes": held_bytes(end.column, loaded[end.column]),
            "threads": torch.get_num_threads(),
            "model": ref,
        }
        explorer.measurements.add_throughput(now(), device, {"kind": "decode", **row})
        rows.append(row)
    return pandas.DataFrame(rows, columns=DECODE_COLUMNS)


def _column(explorer: "Explorer", column: str, ref: str) -> LoadedModel:
    full = explorer.registry.full(ref)
    if column == "bf16":
        return bf16(full)
    if column == "int8":
        return dynamic_int8(full)
    return full if column == "fp32" else explorer.registry.column(column, ref)


def bf16(full: LoadedModel) -> LoadedModel:
    """The model with its weights in bfloat16; what RoPE is computed from stays fp32, as transformers loads it."""
    model = copy.deepcopy(full.model)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return replace(full, model=model)


def dynamic_int8(full: LoadedModel) -> LoadedModel:
    """torch's own dynamic int8 on the linears of the blocks, the same ones that the engine replaces; embedding and head
    as the engine's models have them.
    """
    model = copy.deepcopy(full.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that quantized tensors will go
        for block in blocks_of(model):
            torch.ao.quantization.quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8, inplace=True)
    halve_tables(model)
    return replace(full, model=model)


def path_of(column: str, model: LoadedModel) -> str:
    """What the linears of the blocks run on."""
    if column == "int8":
        return f"torch dynamic int8 ({torch.backends.quantized.engine})"
    if column in TORCH_COLUMNS or model.precision.is_full:
        return f"torch F.linear {'bf16' if column == 'bf16' else 'fp32'}"
    packed = [module for module in blocks_of(model.model).modules() if isinstance(module, PackedLinear)]
    paths = dict.fromkeys(path_for(module.packed, 1, module.act_bits) for module in packed)
    return f"abq {' + '.join(paths)}" if paths else "torch F.linear fp32, activations rounded"


def held_bytes(column: str, model: LoadedModel) -> int:
    """Bytes of the weights of the blocks' linears as this column holds them in memory."""
    if column == "int8":
        quantized = [m for m in blocks_of(model.model).modules() if isinstance(m, torch.ao.nn.quantized.Linear)]
        return sum(m.weight().numel() + 4 * m.out_features for m in quantized)
    if column in TORCH_COLUMNS or model.precision.is_full:
        linears = [m for m in blocks_of(model.model).modules() if isinstance(m, nn.Linear)]
        return sum(m.weight.numel() * m.weight.element_size() for m in linears)
    return weight_bytes(model)
