"""Run the CUDA sources on the CPU: compiled with g++ against tests/cuda_emulator."""

import ctypes
import gc
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from kernels.cuda.compile import HEADERS, SOURCES, Unit, kernels_of, unit_of
from kernels.cuda.tiles import Instance

EMULATOR = Path(__file__).parent.parent / "cuda_emulator"
COMPILER = shutil.which("g++")
WHY_SKIPPED = "g++ is not installed: the CUDA kernels cannot be emulated"
_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fno-gnu-unique"]


class EmulatorError(RuntimeError):
    """A kernel caused an error or undefined behaviour."""


def build(unit: Unit, sources: Path = SOURCES) -> ctypes.CDLL:
    """Compile a unit to a shared library, cached in the temporary folder by the hash of its inputs."""
    files = [*(sources / name for name in (*HEADERS[1:], unit.file)), *sorted(EMULATOR.glob("*.[ch]*"))]
    files = [file for file in files if file.exists()]
    content = unit.source + repr(_FLAGS) + "".join(file.read_text() for file in files)
    folder = Path(tempfile.gettempdir()) / f"abq-cuda-emulator-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{unit.name}-{hashlib.sha256(content.encode()).hexdigest()[:24]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, built = Path(scratch) / "unit.cpp", Path(scratch) / "unit.so"
            source.write_text(unit.source)
            command = [COMPILER, *_FLAGS, f"-I{EMULATOR}", f"-I{sources}", str(source), "-o", str(built)]
            subprocess.run(command, check=True)
            built.replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.emulator_to_half.argtypes = loaded.emulator_to_bfloat.argtypes = [ctypes.c_float]
    loaded.emulator_to_half.restype = loaded.emulator_to_bfloat.restype = ctypes.c_uint16
    loaded.emulator_from_half.restype, loaded.emulator_from_half.argtypes = ctypes.c_float, [ctypes.c_uint16]
    loaded.emulator_add_buffer.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]
    loaded.emulator_has_written.argtypes = [ctypes.c_uint64]
    return loaded


def run(
    library: ctypes.CDLL,
    kernel: str,
    grid: tuple[int, int, int],
    threads: int,
    shared_bytes: int,
    arguments: ctypes.Structure,
    backwards: bool = False,
) -> str:
    """Run a kernel on the registered buffers. Returns the error message, "" if there is none."""
    message = ctypes.create_string_buffer(500)
    failed = library.emulator_run(
        ctypes.cast(getattr(library, kernel), ctypes.c_void_p),
        (ctypes.c_uint32 * 3)(*grid),
        threads,
        shared_bytes,
        ctypes.byref(arguments),
        int(backwards),
        message,
        ctypes.c_size_t(len(message)),
    )
    assert bool(failed) == bool(message.value)
    return message.value.decode()


class EmulatedDevice:
    """A `Launcher` on CPU tensors. Accesses outside the tensors passed to `show` are errors.

    backwards: run blocks, warps and lanes in reverse order.
    """

    def __init__(
        self, arch: str = "90a", processors: int = 4, backwards: bool = False, sources: Path = SOURCES
    ) -> None:
        self.arch, self.processors, self.backwards, self.sources = arch, processors, backwards, sources
        self.launched: list[str] = []
        self.overlaps = True
        self._buffers: list[torch.Tensor] = []
        self._changed: set[int] = set()

    def show(self, *tensors: torch.Tensor | None) -> None:
        """Register tensors that kernels may access."""
        self._buffers += [tensor for tensor in tensors if tensor is not None and tensor.nbytes]

    def launch(
        self, kernel: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: ctypes.Structure
    ) -> None:
        unit = unit_of(kernel)
        if self.sources != SOURCES:  # of mutated sources, compile only this kernel
            definition = unit.definitions[list(kernels_of(unit)).index(kernel)]
            unit = Unit(kernel, unit.file, (definition,))
        library = build(unit, self.sources)
        library.emulator_forget_buffers()
        for tensor in self._buffers:
            storage = tensor.untyped_storage()
            library.emulator_add_buffer(storage.data_ptr(), storage.nbytes(), storage.data_ptr() in self._changed)
        if fault := run(library, kernel, grid, threads, shared_bytes, arguments, self.backwards):
            raise EmulatorError(f"{kernel}: {fault}")
        places = {tensor.untyped_storage().data_ptr() for tensor in self._buffers}
        self._changed |= {place for place in places if library.emulator_has_written(place)}
        self.launched.append(kernel)


class EmulatedGpu(EmulatedDevice):
    """The parts of `CudaDevice` that the engine uses.

    Every live tensor is accessible; the first plan wins.
    """

    index, name, place, cache_bytes = 0, "Emulated GPU", "cpu", 1000
    replay_seconds = 2e-4

    def __init__(self, arch: str = "90a") -> None:
        super().__init__(arch)
        self.capturing = False
        self.timed = 0
        self.loaded: list[Instance] = []
        self.recorded: list[int] = []

    def launch(self, kernel: str, *arguments: object) -> None:
        kinds = (torch.Tensor, torch.nn.Parameter)
        self._buffers = [tensor for tensor in gc.get_objects() if type(tensor) in kinds and tensor.nbytes]
        self._changed.clear()  # the memory may belong to another tensor now
        super().launch(kernel, *arguments)  # type: ignore[arg-type]

    def is_capturing(self) -> bool:
        return self.capturing

    def load(self, instance: Instance) -> None:
        self.loaded.append(instance)

    def seconds(self, run: Callable[[], object]) -> float:
        self.timed += 1
        return 1.0 + self.timed

    def seconds_in_graph(self, runs: list[Callable[[], object]]) -> float:
        return self.seconds(runs[0])

    def record(self, runs: list[Callable[[], object]]) -> Callable[[], float]:
        """Run once; replays return made-up times, each different."""
        for run in runs:
            run()
        self.recorded.append(len(runs))
        seconds = self.replay_seconds + 1e-7 * len(self.recorded)
        return lambda: seconds

    def copy_gb_per_second(self) -> float:
        return 1000.0

    def library_operations_per_second(self, dtype: str) -> float:
        return {"int8": 2e12, "float16": 1e12}[dtype]
