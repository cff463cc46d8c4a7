"""The arguments of overlapping launches, as read by a fake CUDA driver written in C."""

import ctypes
import subprocess
from pathlib import Path

import pytest
from emulated_cuda import COMPILER, WHY_SKIPPED

from kernels.cuda.overlap import LaunchAttribute, LaunchConfig, can_overlap, launch_overlapped

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)

DRIVER = """
#include <stddef.h>
typedef struct { int id; char pad[8 - sizeof(int)]; union { char pad[64]; int allowed; } value; } Attribute;
typedef struct {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    void* stream;
    Attribute* attributes;
    unsigned count;
} Config;
long long seen[16];
extern "C" long long* recorded_arguments() { return seen; }
extern "C" size_t sizes(int i) { return i ? sizeof(Config) : sizeof(Attribute); }
extern "C" int cuLaunchKernelEx(const Config* c, void* function, void** arguments, void** extra) {
    long long found[] = {c->grid_x, c->grid_y, c->grid_z, c->block_x, c->block_y, c->block_z, c->shared_bytes,
        (long long)c->stream, c->count, c->attributes[0].id, c->attributes[0].value.allowed, (long long)function,
        *(int*)arguments[0], extra == NULL};
    for (size_t i = 0; i < sizeof(found) / sizeof(*found); i++) seen[i] = found[i];
    return c->grid_x > 65535 ? 1 : 0;
}
"""


class Arguments(ctypes.Structure):
    _fields_ = (("first", ctypes.c_int32), ("second", ctypes.c_int32))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(DRIVER)
    built = folder / "driver.so"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(built), str(folder / "driver.cpp")], check=True)
    return str(built)


def test_the_driver_receives_the_launch_configuration(driver: str) -> None:
    library = ctypes.CDLL(driver)
    library.recorded_arguments.restype = ctypes.POINTER(ctypes.c_longlong)
    function, stream = 0x7F00_1234_5678, 0x7F00_8765_4321
    assert launch_overlapped(function, (7, 5, 3), 256, 1024, stream, Arguments(41, 42), driver) == 0
    expected = [7, 5, 3, 256, 1, 1, 1024, stream, 1, 6, 1, function, 41, 1]
    assert library.recorded_arguments()[: len(expected)] == expected
    assert library.sizes(0) == ctypes.sizeof(LaunchAttribute)
    assert library.sizes(1) == ctypes.sizeof(LaunchConfig)


def test_an_error_code_is_returned(driver: str) -> None:
    assert launch_overlapped(1, (70_000, 1, 1), 32, 0, 0, Arguments(), driver) == 1


def test_which_devices_overlap_launches(driver: str, tmp_path: Path) -> None:
    assert can_overlap(90, driver) and can_overlap(100, driver)
    assert not can_overlap(89, driver)
    assert not can_overlap(90, str(tmp_path / "missing.so"))
