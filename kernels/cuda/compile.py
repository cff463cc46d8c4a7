"""Compile CUDA C++ to cubins with NVRTC; no driver or toolkit needed.

Cubins are cached on disk together with the compiler's log.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kernels.cuda.private_apis import CupyMissingError, nvrtc
from kernels.cuda.tiles import (
    BINARY,
    BYTES,
    CEILINGS,
    DEQUANTIZE,
    FINISH_TOTALS,
    GATED,
    INPUT_KINDS,
    LOOK_UP,
    NORMED,
    ROTATE_THREADS,
    THREADS,
    TOKEN_ROWS,
    TOKEN_THREADS,
    TYPES,
    WEIGHT_ROWS,
    Instance,
    attend_name,
    instances,
    materialize_name,
    quantize_name,
    rotate_name,
    round_name,
    scale_name,
)
from kernels.host.cache_files import cache_folder, write_atomically

SOURCES = Path(__file__).parent
HEADERS = ("device.cuh", "arguments.cuh", "inputs.cuh", "epilogue.cuh")
LOWEST_ARCH = 80
_PROGRAM_HEADERS = ((32, 8), (54, 2), (56, 2))  # (offset, width) in the ELF header of their start, size and count
_ARCH = re.compile(r"(\d+)[af]?")
_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


class CompileError(RuntimeError):
    """A kernel could not be compiled for an architecture."""


class CompilerMissingError(CompileError):
    """CuPy or NVRTC is not installed."""


class ArchitectureError(CompileError):
    """The GPU lacks the tensor-core instructions of these kernels, or is unknown."""


@dataclass(frozen=True)
class KernelResources:
    """Resources of one kernel as the compiler reports them. shared_bytes: static part only."""

    kernel: str
    arch: str
    registers: int
    spill_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Unit:
    """A compilation unit: some kernels of one file. name: for cache files and messages."""

    name: str
    file: str
    definitions: tuple[str, ...]

    @property
    def source(self) -> str:
        """The C++ source, for NVRTC and for the host compiler of the emulator."""
        return "\n".join([f"#include <{self.file}>", *self.definitions, ""])


def unit_of(name: str) -> Unit:
    """The unit that contains a kernel. Raises KeyError for an unknown name."""
    return _units_by_kernel()[name]


def units(arch: str) -> tuple[Unit, ...]:
    """All units for an architecture such as "90a". Raises ArchitectureError."""
    has_binary = has_binary_mma(arch)
    return tuple(unit for unit in _all_units() if has_binary or not _multiplies_bits(unit))


def _multiplies_bits(unit: Unit) -> bool:
    return unit.file == f"{BINARY}.cu" or unit.name == CEILINGS["b1"]


def has_binary_mma(arch: str) -> bool:
    """Whether an architecture has binary tensor-core products: sm_80 to sm_90.

    Raises ArchitectureError.
    """
    return arch_number(arch) < 100


def arch_number(arch: str) -> int:
    """80 for "80", 90 for "90a". Raises ArchitectureError for other texts and below sm_80."""
    match = _ARCH.fullmatch(arch)
    if match is None:
        raise ArchitectureError(f"'{arch}' is not a GPU architecture; use 80, 86, 89 or 90a")
    number = int(match[1])
    if number < LOWEST_ARCH:
        raise ArchitectureError(
            f"sm_{arch} has neither 'mma.m16n8k256 .and.popc' nor 'mma.m16n8k32'; these kernels need sm_80 (Ampere) "
            "or later. Use the CPU engine."
        )
    return number


@cache
def _all_units() -> tuple[Unit, ...]:
    dequantize = f"KERNEL({DEQUANTIZE}, DequantizeArguments, {THREADS}, (dequantize))"
    look_up = f"KERNEL({LOOK_UP}, LookUpArguments, {THREADS}, (look_up))"
    signed = (
        f"KERNEL({WEIGHT_ROWS}, RowsArguments, {THREADS}, (weight_rows))",
        f"KERNEL({TOKEN_ROWS}, RowsArguments, {THREADS}, (token_rows))",
        f"KERNEL({FINISH_TOTALS}, TotalsArguments, {THREADS}, (finish_totals))",
    )
    ceilings = [
        Unit(
            name,
            "ceiling.cu",
            (f"KERNEL({name}, CeilingArguments, {THREADS}, (ceiling<{str(kind == 'b1').lower()}>))",),
        )
        for kind, name in CEILINGS.items()
    ]
    products = [
        _product_unit([i for i in instances(planes, grouped) if i.family == family])
        for family in (BINARY, BYTES)
        for grouped in (False, True)
        for planes in range(1, 10)
    ]
    return (
        *(_quantize_unit(kind) for kind in INPUT_KINDS),
        _decode_step_unit(),
        _int8_unit(),
        Unit("dequantize", "dequantize.cu", (dequantize,)),
        Unit("look_up", "look_up.cu", (look_up,)),
        Unit("signed", "signed.cu", signed),
        *ceilings,
        *products,
    )


def _quantize_unit(kind: str) -> Unit:
    kernels = _of_each_input(quantize_name, "QuantizeArguments", "quantize", (kind,))
    return Unit(f"quantize_{kind}", "quantize.cu", tuple(kernels))


def _int8_unit() -> Unit:
    kernels = (
        *_of_each_input(round_name, "RoundArguments", "round_tokens", INPUT_KINDS),
        *_of_each_type(scale_name, "ScaleArguments", THREADS, "scale_sums"),
    )
    return Unit("int8", "int8.cu", kernels)


def _decode_step_unit() -> Unit:
    kernels = (
        *_of_each_input(materialize_name, "MaterializeArguments", "materialize", (GATED, NORMED)),
        *_of_each_type(rotate_name, "RotateArguments", ROTATE_THREADS, "rotate_and_cache"),
        *_of_each_type(attend_name, "AttendArguments", THREADS, "attend"),
    )
    return Unit("decode_step", "decode_step.cu", kernels)


def _of_each_input(
    name: Callable[[str, str], str], arguments: str, template: str, kinds: Iterable[str]
) -> Iterator[str]:
    """Kernel definitions for every dtype and the given kinds of input."""
    for kind in kinds:
        for number, dtype in enumerate(TYPES):
            instance = f"{template}<{number}, {INPUT_KINDS.index(kind)}>"
            yield f"KERNEL({name(dtype, kind)}, {arguments}, {TOKEN_THREADS}, ({instance}))"


def _of_each_type(name: Callable[[str], str], arguments: str, threads: int, template: str) -> Iterator[str]:
    """Kernel definitions for every dtype."""
    for number, dtype in enumerate(TYPES):
        yield f"KERNEL({name(dtype)}, {arguments}, {threads}, ({template}<{number}>))"


def _product_unit(group: list[Instance]) -> Unit:
    first = group[0]
    name = f"{first.family}_p{first.planes}" + ("_grouped" if first.grouped else "")
    return Unit(name, first.source, tuple(instance.definition for instance in group))


@cache
def _units_by_kernel() -> dict[str, Unit]:
    return {name: unit for unit in _all_units() for name in kernels_of(unit)}


def kernels_of(unit: Unit) -> Iterator[str]:
    """The names of a unit's kernels, in the order of its definitions."""
    for definition in unit.definitions:
        yield definition.removeprefix("KERNEL(").split(",")[0]


def cubin(unit: Unit, arch: str) -> bytes:
    """Machine code of a unit, from the disk cache if possible. Raises CompileError."""
    return compile_unit(unit, arch)[0]


def compile_unit(unit: Unit, arch: str) -> tuple[bytes, str]:
    """(cubin, compiler log) of a unit for an architecture such as "90a". Raises CompileError."""
    arch_number(arch)
    compiler = _nvrtc()
    options = (f"-arch=sm_{arch}", "--std=c++17", "-default-device", "--ptxas-options=-v")
    texts = {name: (SOURCES / name).read_text() for name in (*HEADERS, unit.file)}
    key = repr((compiler.getVersion(), options, unit.source, sorted(texts.items())))
    stem = cache_folder("cuda") / f"{unit.name}-sm{arch}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    cached, log = stem.with_suffix(".cubin"), stem.with_suffix(".log")
    if cached.exists() and log.exists():
        return cached.read_bytes(), log.read_text()
    image, messages = _compile(compiler, unit, options, texts)
    write_atomically(log, messages.encode())
    write_atomically(cached, image)
    return image, messages


def _compile(compiler: Any, unit: Unit, options: tuple[str, ...], texts: dict[str, str]) -> tuple[bytes, str]:
    program = compiler.createProgram(
        unit.source,
        f"unit_{unit.name}.cu",
        [text.encode() for text in texts.values()],
        [name.encode() for name in texts],
    )
    try:
        try:
            compiler.compileProgram(program, options)
        except compiler.NVRTCError as error:
            messages = compiler.getProgramLog(program)
            raise CompileError(
                f"NVRTC could not compile {unit.name} with {options[0]} ({error}):\n{messages}"
            ) from error
        return complete_elf(compiler.getCUBIN(program)), compiler.getProgramLog(program)
    finally:
        compiler.destroyProgram(program)


def complete_elf(image: bytes) -> bytes:
    """Restore the last byte of a cubin, which CuPy 14 drops as if it terminated a string.

    The driver works without it, because a zero byte follows any `bytes` object in memory; tools that read the cached
    file do not.
    """
    start, size, count = (int.from_bytes(image[at : at + width], "little") for at, width in _PROGRAM_HEADERS)
    return image + b"\0" if len(image) == start + size * count - 1 else image


def resources(unit: Unit, arch: str) -> list[KernelResources]:
    """Registers, spills and static shared memory of a unit's kernels, as ptxas reports them.

    Raises CompileError.
    """
    rows = parse_log(compile_unit(unit, arch)[1], arch)
    missing = set(kernels_of(unit)) - {row.kernel for row in rows}
    if missing:
        raise CompileError(f"the compiler's log of {unit.name} for sm_{arch} does not mention {sorted(missing)}")
    return rows


def parse_log(log: str, arch: str) -> list[KernelResources]:
    """One row per entry function of `ptxas -v`'s output."""
    parts = _ENTRY.split(log)[1:]
    rows = []
    for kernel, text in zip(parts[::2], parts[1::2], strict=True):
        spill, used, shared = _SPILL.search(text), _USED.search(text), _SHARED.search(text)
        if spill is None or used is None:
            raise CompileError(f"cannot parse the compiler's log of {kernel} for sm_{arch}: {text.strip()[:300]}")
        spilled = int(spill[1]) + int(spill[2])
        rows.append(KernelResources(kernel, arch, int(used[1]), spilled, int(shared[1]) if shared else 0))
    return rows


def compile_report(archs: Iterable[str]) -> Iterator[KernelResources]:
    """Compile every kernel for every architecture and yield one row each. Raises CompileError."""
    for arch in archs:
        for unit in units(arch):
            yield from resources(unit, arch)


def _nvrtc() -> Any:
    try:
        return nvrtc()
    except CupyMissingError as error:
        raise CompilerMissingError(
            f"CUDA kernels are compiled by NVRTC through CuPy, which cannot be imported ({error}). "
            "Install the extra: pip install 'abq-explorer[gpu]'"
        ) from error
