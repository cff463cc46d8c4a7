"""Warm-up: kernels compiled in one process are cached for the next."""

import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
RANDOM = np.random.default_rng(7)


def test_the_next_process_compiles_nothing() -> None:
    code = "from kernels.warm_up import warm_up; print(warm_up().compiled)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[1].stdout.strip() == "0", runs[1].stderr
