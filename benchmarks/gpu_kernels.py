"""The GPU engine against torch's libraries, written as JSON. Of the project it needs `kernels` alone.

PYTHONPATH=. python benchmarks/gpu_kernels.py --json benchmarks/results/gpu-kernels.json
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kernels.bench import KernelMeasurement
from kernels.cuda import driver
from kernels.cuda.bench import bench_gpu

PRECISIONS = "W2A8,W2*A8,W2A2,W3A8,W4A4,W4A8,W6A6,W8A8"
SHAPES = "4096x4096,11008x4096,4096x11008,8192x28672"
TOKENS = "1,2,4,8,16,32,64,256,1024,4096"
PACKAGES = ("torch", "numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cuda-nvrtc")


def main() -> None:
    """Measure, print a line for each row, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", default=PRECISIONS, help="with commas between")
    parser.add_argument("--shapes", default=SHAPES, help="outputs x inputs, with commas between")
    parser.add_argument("--m", default=TOKENS, help="tokens, with commas between")
    parser.add_argument("--json", type=Path, help="the file to write; none without it")
    arguments = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    tokens = [int(m) for m in arguments.m.split(",")]
    on = driver.device(0)
    rows = bench_gpu(on, arguments.precisions.split(","), [(n, k) for n, k in shapes], tokens, show)
    if arguments.json is not None:
        content = {"machine": machine(on), "command": sys.argv[1:], "measurements": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=1))


def show(row: KernelMeasurement) -> None:
    """One line."""
    factors = ", ".join(f"{factor:.2f}x {engine}" for engine, factor in row.speedup.items())
    print(
        f"{row.n}x{row.k} M={row.m:<5} {row.engine:<14} {row.precision:<6} {row.median_us:9.1f} µs, cold "
        f"{row.cold_us:9.1f} µs, {'exact' if row.exact else '-':<6} {row.path}; {factors}",
        flush=True,
    )


def machine(on: driver.CudaDevice) -> dict[str, Any]:
    """Device, driver and versions."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": on.name,
        "arch": f"sm_{on.arch}",
        "processors": on.processors,
        "cache_bytes": on.cache_bytes,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": found,
    }


def driver_version() -> str | None:
    """Of the display driver, as nvidia-smi says; None without that program."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


if __name__ == "__main__":
    main()
