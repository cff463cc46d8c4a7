"""Speed: the kernel benchmark, decoding of whole models and its profile. Stores what it measures."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import pandas
import psutil

from app import formatting
from app.clock import now
from app.services.errors import ServiceError
from app.services.registry import BUILTIN, ModelRegistry
from app.services.speed.timings import this_device
from app.settings import Settings
from storage.measurements import Measurements

if TYPE_CHECKING:
    from abq_core.models.loading import LoadedModel
    from kernels.gpu import CudaDevice
    from kernels.measurement import KernelMeasurement

    OnMeasurement = Callable[[KernelMeasurement], None]

PROMPT = "The following functions are"
WARM_UP_TOKENS = 3
CPU = "cpu"
_BYTES_PER_ELEMENT = 16  # of the operands: fp32, integers, codes and packed planes, for the engine and its peers
DECODE_COLUMNS = [
    "column", "path", "tokens", "tokens_per_second", "first_token_seconds", "weight_bytes", "threads", "model",
]  # fmt: skip


class ThroughputService:
    """Times kernels and whole models on this machine's CPU or GPU."""

    def __init__(self, settings: Settings, measurements: Measurements, registry: ModelRegistry) -> None:
        self._settings, self._measurements, self._registry = settings, measurements, registry

    def time_kernels(
        self,
        precisions: Sequence[str],
        shapes: Sequence[tuple[int, int]],
        m: Sequence[int] = (1,),
        threads: int | None = None,
        on_measurement: "OnMeasurement | None" = None,
        peers: Sequence[str] = ("torch",),
        device: str = "cpu",
    ) -> "list[KernelMeasurement]":
        """Time the kernels and their peers on these shapes, after checking every result.

        Stores each measurement when it is done, so what is measured stays if on_measurement raises to stop.
        shapes: (outputs, inputs).  m: tokens.  threads, peers (names in `kernels.benchmark.peers`): for the CPU only.
        device: "cpu" or "cuda". Raises CudaError without a GPU.
        """
        _require_memory(shapes, m, precisions)
        gpu = _gpu() if device == "cuda" else None
        measured_on = this_device() if gpu is None else gpu.name

        def store(measurement: "KernelMeasurement") -> None:
            self._measurements.add_throughput(now(), measured_on, {"kind": "kernel", **asdict(measurement)})
            if on_measurement is not None:
                on_measurement(measurement)

        if gpu is not None:
            from kernels.gpu import bench_gpu

            return bench_gpu(gpu, list(precisions), list(shapes), list(m), store)
        from kernels.benchmark.matmul import bench_kernels

        return bench_kernels(list(precisions), list(shapes), list(m), threads or self._settings.threads, store, peers)

    def time_decode(
        self,
        columns: Sequence[str] = ("fp32", "bf16", "int8", "W2A8"),
        tokens: int = 64,
        model: str = BUILTIN,
        on_token: Callable[[int], None] | None = None,
        device: str = "cpu",
    ) -> pandas.DataFrame:
        """Decode one prompt in every column, one token each in turn, after a warm-up.

        Stores all rows or none.
        Returns a row per column: tokens/s, seconds to the first token, bytes of weights, and the kernel path.
        on_token(count): called after each token of the first column; may raise to stop.  device: "cpu" or "cuda".
        Raises RunNotFoundError, MissingBlockError, PrecisionError, ModelError, PromptError if the text does not fit the
        model's context, ServiceError, and CudaError without a GPU.
        """
        if not columns or tokens < 2:
            raise ServiceError(
                f"Nothing to measure: {len(columns)} columns and {tokens} tokens. Use at least 1 column and 2 tokens."
            )
        import torch

        from abq_core.inference.generate import Finished, generate_endlessly
        from app.services.speed.decode_columns import held_bytes, path_of

        gpu = None if device == "cpu" else _gpu()
        ref = self._registry.common_model(columns, self._registry.stored_model(model))
        loaded = self._load_columns(columns, ref, gpu)
        list(generate_endlessly(loaded, PROMPT, WARM_UP_TOKENS))
        finished = list[Finished]()
        for event in generate_endlessly(loaded, PROMPT, tokens):
            if isinstance(event, Finished):
                finished.append(event)
            elif on_token is not None and event.column == columns[0]:
                on_token(event.index + 1)
        rows = [
            {
                "column": end.column,
                "path": path_of(loaded[end.column]),
                "tokens": end.tokens,
                "tokens_per_second": end.tokens_per_second,
                "first_token_seconds": end.first_token_seconds,
                "weight_bytes": held_bytes(loaded[end.column]),
                "threads": torch.get_num_threads(),
                "model": ref,
            }
            for end in sorted(finished, key=lambda end: columns.index(end.column))
        ]
        measured_on = this_device() if gpu is None else gpu.name
        for row in rows:
            self._measurements.add_throughput(now(), measured_on, {"kind": "decode", **row})
        return pandas.DataFrame(rows, columns=DECODE_COLUMNS)

    def profile_decode(
        self,
        columns: Sequence[str],
        tokens: int = 32,
        model: str = BUILTIN,
        on_token: Callable[[str, int], None] | None = None,
    ) -> list[dict[str, object]]:
        """Where the time of a decode step goes in every column, on the CPU. Stores all profiles or none.

        Returns a dictionary per column: `seconds` of a step, `positions` that attention reads, `read_gb_per_second` of
        this machine, and `parts` with `kind`, `seconds` and `nbytes` read.
        on_token(column, count): may raise to stop.  Raises ServiceError, PromptError.
        """
        if not columns or tokens < 2:
            raise ServiceError(
                f"Nothing to profile: {len(columns)} columns and {tokens} tokens. Use at least 1 column and 2 tokens."
            )
        import torch

        from abq_core.inference.decode_profile import profile_decode
        from app.services.speed.decode_columns import held_bytes, path_of
        from kernels.benchmark.bandwidth import read_bandwidth

        ref = self._registry.common_model(columns, self._registry.stored_model(model))
        threads = torch.get_num_threads()
        bandwidth = read_bandwidth(threads)
        profiles: list[dict[str, object]] = []
        for column, loaded in self._load_columns(columns, ref, None).items():
            report = None if on_token is None else partial(on_token, column)
            profile = profile_decode(loaded, PROMPT, tokens, held_bytes(loaded), report)
            profiles.append(
                {
                    "column": column,
                    "path": path_of(loaded),
                    "model": ref,
                    "threads": threads,
                    "read_gb_per_second": bandwidth,
                    **asdict(profile),
                    "parts": [asdict(part) for part in profile.parts],
                }
            )
        for one in profiles:
            self._measurements.add_throughput(now(), this_device(), {"kind": "profile", **one})
        return profiles

    def _load_columns(self, columns: Sequence[str], ref: str, gpu: "CudaDevice | None") -> "dict[str, LoadedModel]":
        from app.services.speed.decode_columns import cpu_column, gpu_column

        if imports := [column for column in columns if self._registry.is_imported(column)]:
            raise ServiceError(
                f"{imports[0]} is imported: it computes in float32 here. Time its file in the runtime it is for."
            )
        if gpu is None and self._settings.device != CPU:
            raise ServiceError(
                f"The models of this process are on {self._settings.device} (ABQ_DEVICE), so the CPU cannot be timed. "
                "Use --device cuda, or start without ABQ_DEVICE."
            )
        if gpu is None:
            return {column: cpu_column(self._registry, column, ref) for column in columns}
        return {column: gpu_column(self._registry, column, ref, gpu.place) for column in columns}


def _require_memory(shapes: Sequence[tuple[int, int]], m: Sequence[int], precisions: Sequence[str]) -> None:
    """Refuse shapes whose operands do not fit in the free memory, before any is made.

    Raises ServiceError, and BenchError for an invalid precision.
    """
    from kernels.precision_names import parse_precision

    free = psutil.virtual_memory().available
    group_sizes = [size for _, _, _, size in map(parse_precision, precisions) if size is not None]
    for n, k in shapes:
        sums = 4 * max(m, default=1) * n * max((-(-k // size) for size in group_sizes), default=1)  # of the check
        needed = _BYTES_PER_ELEMENT * (n * k + max(m, default=1) * (n + k)) + sums
        if needed > free:
            raise ServiceError(
                f"{n}x{k} with {max(m, default=1):,} tokens takes about {formatting.size(needed)} of memory, and "
                f"{formatting.size(free)} are free. Use a smaller shape, or fewer tokens."
            )


def _gpu() -> "CudaDevice":
    from kernels.gpu import device

    return device(0)
