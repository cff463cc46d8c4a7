"""Description of the machine in a GPU benchmark's file: device, driver and versions."""

import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from kernels.cuda import driver
from kernels.host.processor import cpu_name

PACKAGES = (
    "torch", "triton", "transformers", "numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cuda-nvrtc", "gemlite",
    "humming-kernels",
)  # fmt: skip


def describe_gpu(on: driver.CudaDevice | None) -> dict[str, Any]:
    """Describe a GPU; without one, the processor."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    device: dict[str, Any] = {"device": cpu_name()}
    if on is not None:
        device = {
            "device": on.name,
            "arch": f"sm_{on.arch}",
            "processors": on.processors,
            "cache_bytes": on.cache_bytes,
            "driver": _driver_version(),
            "launches_overlap": on.overlaps,
        }
    return {
        "date": time.strftime("%Y-%m-%d"),
        **device,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": versions,
    }


def _driver_version() -> str | None:
    """Version of the display driver from nvidia-smi; None if that program is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
