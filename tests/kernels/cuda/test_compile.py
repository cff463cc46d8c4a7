"""The set of kernels, the compiler's log and the cubin cache.

Compiling needs CuPy (NVRTC), not a GPU.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated_cuda import EMULATOR

from kernels.cuda import compile as cuda_compile
from kernels.cuda import private_apis
from kernels.cuda.compile import (
    HEADERS,
    SOURCES,
    ArchitectureError,
    CompileError,
    CompilerMissingError,
    Unit,
    compile_report,
    compile_unit,
    cubin,
    kernels_of,
    parse_log,
    resources,
    unit_of,
    units,
)
from kernels.cuda.tiles import BINARY, BYTES, CEILINGS, instances


def why_not_compiled() -> str:
    """Why NVRTC cannot be used; empty if it can."""
    try:
        cuda_compile._nvrtc()
    except CompilerMissingError as error:
        return str(error)
    return ""


needs_nvrtc = pytest.mark.skipif(bool(why_not_compiled()), reason=why_not_compiled() or "NVRTC is installed")

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
ptxas         .     800 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 800 bytes cumulative stack size, 1024 bytes smem, 376 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 380 bytes cmem[0]
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ABQ_KERNEL_CACHE", str(tmp_path / "cubins"))
    yield tmp_path / "cubins"


def test_the_compilers_log_is_parsed() -> None:
    first, second = parse_log(LOG, "80")
    assert (first.kernel, first.arch, first.registers, first.spill_bytes, first.shared_bytes) == (
        "first",
        "80",
        32,
        12,
        1024,
    )
    assert (second.kernel, second.registers, second.spill_bytes, second.shared_bytes) == ("second", 255, 0, 0)
    with pytest.raises(CompileError, match="cannot parse the compiler's log of first"):
        parse_log(LOG.replace("Used 32 registers", "Used some registers"), "80")


def test_every_number_of_planes_has_kernels_and_names_are_unique() -> None:
    names = [name for unit in units("90a") for name in cuda_compile.kernels_of(unit)]
    assert len(names) == len(set(names))
    assert sum(unit.file in (f"{BINARY}.cu", f"{BYTES}.cu") for unit in map(unit_of, names)) < 100
    for planes in range(1, 10):
        for grouped in (False, True):
            found = instances(planes, grouped)
            assert {instance.family for instance in found} == {BINARY, BYTES}
            assert all(unit_of(instance.name).file == instance.source for instance in found)
            for family in (BINARY, BYTES):
                assert any((i.rows, i.columns) == (1, 1) for i in found if i.family == family)


def test_architectures() -> None:
    assert all(not unit.name.startswith(BINARY) for unit in units("100a"))
    assert any(unit.name.startswith(BYTES) for unit in units("120"))
    assert {"ceiling_b1", "ceiling_int8"} <= {unit.name for unit in units("90a")}
    assert {unit.name for unit in units("120") if unit.file == "ceiling.cu"} == {"ceiling_int8"}
    with pytest.raises(ArchitectureError, match="sm_75 has neither"):
        units("75")
    with pytest.raises(ArchitectureError, match="'ninety' is not a GPU architecture"):
        units("ninety")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(private_apis.importlib, "import_module", missing)
    private_apis.nvrtc.cache_clear()
    try:
        with pytest.raises(CompilerMissingError, match=r"pip install 'abq-explorer\[gpu\]'"):
            cubin(unit_of("quantize_float16"), "80")
    finally:
        private_apis.nvrtc.cache_clear()


def test_sources_need_no_cuda_header() -> None:
    for path in SOURCES.glob("*.cu*"):
        included = [line for line in path.read_text().splitlines() if line.startswith("#include")]
        assert {line.split("<")[1].rstrip(">") for line in included} <= set(HEADERS), path.name
    assert (EMULATOR / "device.cuh").exists()


@needs_nvrtc
@pytest.mark.parametrize("arch", ["80", "86", "89", "90a"])
def test_all_kernels_compile_and_none_spills(arch: str) -> None:
    rows = {row.kernel: row for row in compile_report([arch])}
    assert set(rows) == {name for unit in units(arch) for name in kernels_of(unit)}
    assert [row for row in rows.values() if row.spill_bytes or not 0 < row.registers <= 255] == []


@needs_nvrtc
@pytest.mark.parametrize("arch", ["80", "86", "89", "90a"])
@pytest.mark.parametrize("kind", sorted(CEILINGS))
def test_the_ceiling_loops_keep_their_accumulators_in_registers(kind: str, arch: str) -> None:
    (row,) = resources(unit_of(CEILINGS[kind]), arch)
    assert row.spill_bytes == 0
    assert row.registers >= 8 * 4 + 8 * 2 + 4  # accumulators and operands: none was merged with another


@needs_nvrtc
def test_a_cubin_is_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = unit_of("dequantize_weight")
    image = cubin(unit, "80")
    assert image[:4] == b"\x7fELF"
    assert len(list(empty_cache.glob("dequantize-sm80-*.cubin"))) == 1
    assert not [path for path in empty_cache.iterdir() if path.suffix not in (".cubin", ".log")]

    def refuse(*arguments: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(cuda_compile, "_compile", refuse)
    assert cubin(unit, "80") == image
    with pytest.raises(AssertionError, match="compiled again"):
        cubin(unit, "86")


@needs_nvrtc
def test_a_cached_cubin_is_a_complete_elf_file(empty_cache: Path) -> None:
    image = cuda_compile.cubin(cuda_compile.unit_of("dequantize_weight"), "90a")
    headers, size, count = (
        int.from_bytes(image[at : at + width], "little") for at, width in ((32, 8), (54, 2), (56, 2))
    )
    assert image.startswith(b"\x7fELF") and count > 0
    assert len(image) == headers + size * count  # program headers end the file
    assert next(empty_cache.glob("*.cubin")).read_bytes() == image
    assert cuda_compile.complete_elf(image) == cuda_compile.complete_elf(image[:-1]) == image


@needs_nvrtc
def test_a_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ABQ_KERNEL_CACHE", str(tmp_path / "file" / "below"))
    assert cubin(unit_of("dequantize_weight"), "80")[:4] == b"\x7fELF"


@needs_nvrtc
def test_code_that_does_not_compile_shows_the_compilers_words() -> None:
    with pytest.raises(CompileError, match="no_such_function"):
        compile_unit(
            Unit("broken", "dequantize.cu", ("KERNEL(broken, DequantizeArguments, 32, (no_such_function))",)), "80"
        )


@needs_nvrtc
def test_the_command_lists_registers_spills_and_shared_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from app.cli.main import main

    monkeypatch.setattr(cuda_compile, "units", lambda arch: (unit_of("dequantize_weight"),))
    assert main(["bench", "kernels", "--compile-only", "--arch", "80,90a", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["kernel"], row["arch"], row["spill_bytes"]) for row in rows] == [
        ("dequantize_weight", "80", 0),
        ("dequantize_weight", "90a", 0),
    ]
    assert set(rows[0]) == {"kernel", "arch", "registers", "spill_bytes", "shared_bytes"}
    assert main(["bench", "kernels", "--compile-only", "--arch", "75"]) != 0
    assert "sm_75 has neither" in capsys.readouterr().err
