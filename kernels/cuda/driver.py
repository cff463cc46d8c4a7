"""A CUDA device as a `Launcher`.

It loads cubins through CuPy's driver bindings and launches on torch's current stream.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from kernels.cuda.compile import CompilerMissingError, cubin, has_binary_mma, unit_of
from kernels.cuda.overlap import can_overlap, launch_overlapped
from kernels.cuda.plan import SHARED_LIMIT
from kernels.cuda.private_apis import CudaBindings, CupyMissingError, cuda_bindings, int8_matmul
from kernels.cuda.tiles import FINISH_TOTALS, LIBRARY, TOKEN_ROWS, TYPES, WEIGHT_ROWS, Instance, quantize_name

if TYPE_CHECKING:
    from torch import Tensor

_TIMED_RUNS, _TIMED_REPLAYS = 20, 7
_COPIED_BYTES = 1 << 30
_LARGE = 8192  # rows and columns of a product that saturates a library


class CudaError(RuntimeError):
    """The CUDA driver reported an error, or no device is available."""


class CudaDevice:
    """One GPU. Use `device` to get one."""

    def __init__(self, index: int) -> None:
        import torch

        if not torch.cuda.is_available():
            raise CudaError("torch finds no CUDA device on this machine; use the CPU engine")
        properties = torch.cuda.get_device_properties(index)
        number = properties.major * 10 + properties.minor
        self.index = index
        self.place = f"cuda:{index}"
        self.name: str = properties.name
        self.processors: int = properties.multi_processor_count
        self.arch = "90a" if number == 90 else str(number)
        has_binary_mma(self.arch)  # raises below sm_80
        self.overlaps = can_overlap(number)
        self._driver, self._runtime = _bindings()
        self._modules: list[int] = []
        self._functions: dict[str, int] = {}

    def launch(
        self, kernel: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: ctypes.Structure
    ) -> None:
        """Launch `kernel` on torch's current stream. Raises CudaError, CompileError."""
        import torch

        assert shared_bytes <= SHARED_LIMIT
        with torch.cuda.device(self.index):
            self._runtime.setDevice(self.index)  # a new thread has no CUDA context yet
            function = self._function(kernel)
            stream = torch.cuda.current_stream(self.index).cuda_stream
            try:
                if self.overlaps:
                    self._driver.check_status(
                        launch_overlapped(function, grid, threads, shared_bytes, stream, arguments)
                    )
                    return
                pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
                self._driver.launchKernel(
                    function, *grid, threads, 1, 1, shared_bytes, stream, ctypes.addressof(pointers), 0
                )
            except self._driver.CUDADriverError as error:
                raise CudaError(f"launching {kernel} with grid {grid} and {threads} threads failed: {error}") from error

    def is_capturing(self) -> bool:
        """Whether the current stream is being captured into a CUDA graph."""
        import torch

        return bool(torch.cuda.is_current_stream_capturing())

    def load(self, instance: Instance) -> None:
        """Compile and load the kernels of a product; none can be loaded during graph capture."""
        import torch

        with torch.cuda.device(self.index):
            self._runtime.setDevice(self.index)
            library = instance.family == LIBRARY
            products = (WEIGHT_ROWS, TOKEN_ROWS, FINISH_TOTALS) if library else (instance.name,)
            for kernel in (*products, *(quantize_name(dtype) for dtype in TYPES)):
                self._function(kernel)

    def seconds(self, run: Any) -> float:
        """Median seconds of one call of `run`, which launches without waiting.

        Only for work that takes longer on the GPU than its launches take on the host.
        """
        import torch

        with torch.cuda.device(self.index):
            for _ in range(3):
                run()
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(_TIMED_RUNS + 1)]
            marks[0].record()
            for mark in marks[1:]:
                run()
                mark.record()
            torch.cuda.synchronize(self.index)
            times = sorted(before.elapsed_time(after) for before, after in itertools.pairwise(marks))
        return float(times[len(times) // 2]) / 1e3

    def seconds_in_graph(self, runs: list[Callable[[], object]]) -> float:
        """Median seconds per run in a CUDA graph of all runs, without the host's launch time."""
        replay = self.record(runs)
        return sorted(replay() for _ in range(_TIMED_REPLAYS))[_TIMED_REPLAYS // 2]

    def record(self, runs: list[Callable[[], object]]) -> Callable[[], float]:
        """Capture all runs in a CUDA graph.

        Calling the result replays the graph and returns the seconds per run.
        """
        import torch

        with torch.cuda.device(self.index):
            side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for run in runs:
                    run()
                # not `torch.cuda.graph`: it empties torch's cache first, which is slow for hundreds of captures
                graph.capture_begin(capture_error_mode="thread_local")  # other threads may use the GPU
                try:
                    kept = [run() for run in runs]
                finally:
                    graph.capture_end()
            torch.cuda.current_stream().wait_stream(side)

        def replay() -> float:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with torch.cuda.device(self.index):
                before.record()
                graph.replay()
                after.record()
                after.synchronize()
            return float(before.elapsed_time(after)) / 1e3 / len(kept)

        return replay

    @property
    def cache_bytes(self) -> int:
        """Size of the L2 cache."""
        import torch

        return int(torch.cuda.get_device_properties(self.index).L2_cache_size)

    def copy_gb_per_second(self) -> float:
        """Memory bandwidth of a large copy in GB/s, reads and writes together."""
        import torch

        source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=self.place)
        target = torch.empty_like(source)
        return 2 * _COPIED_BYTES / self.seconds(lambda: target.copy_(source)) / 1e9

    def library_operations_per_second(self, dtype: str) -> float:
        """Operations per second of a large "float16" or "int8" product of torch."""
        import torch

        values = torch.randn((2, _LARGE, _LARGE), device=self.place)
        if dtype == "int8":
            left, right = (values * 40).clamp(-127, 127).to(torch.int8)
            return 2 * _LARGE**3 / self.seconds(lambda: int8_matmul(left, right.T))
        left, right = values.half()
        return 2 * _LARGE**3 / self.seconds(lambda: left @ right.T)

    def _function(self, kernel: str) -> int:
        if kernel not in self._functions:
            try:
                module = self._driver.moduleLoadData(cubin(unit_of(kernel), self.arch))
                self._modules.append(module)
                self._functions[kernel] = self._driver.moduleGetFunction(module, kernel)
            except self._driver.CUDADriverError as error:
                raise CudaError(f"loading {kernel} on {self.name} failed: {error}") from error
        return self._functions[kernel]


@cache
def device(index: int) -> CudaDevice:
    """The GPU of this index.

    Raises CudaError, ArchitectureError below sm_80, CompilerMissingError without CuPy.
    """
    return CudaDevice(index)


def device_of(tensor: Tensor) -> CudaDevice:
    """The GPU that holds a tensor. Raises what `device` does."""
    return device(tensor.device.index or 0)


def _bindings() -> CudaBindings:
    try:
        return cuda_bindings()
    except CupyMissingError as error:
        raise CompilerMissingError(
            f"CUDA kernels are launched through CuPy, which cannot be imported ({error}). "
            "Install the extra: pip install 'abq-explorer[gpu]'"
        ) from error
