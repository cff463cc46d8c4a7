"""Compare the CPU engine with ONNX Runtime, torch and llama.cpp in one run.

Write the results as JSON and as a page.
.venv/bin/python benchmarks/cpu_peers.py --quick --json benchmarks/results/cpu-peers.json
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pages.cpu_peers_page import page, row_text

from kernels.benchmark.machine import describe_machine
from kernels.benchmark.matmul import QUICK, Matrix, bench_kernels
from kernels.benchmark.peers import PEERS, installed_peers
from kernels.host.threads import thread_count
from kernels.measurement import KernelMeasurement

SHAPES = [(2048, 2048), (4096, 4096), (4096, 11008), (11008, 4096), (8192, 28672)]
M = [1, 2, 4, 8, 16, 64, 256]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, write the requested files, and return the content of the JSON file."""
    options = _parser().parse_args(arguments)
    threads = 1 if options.quick else thread_count(options.threads)
    full = Matrix(QUICK.precisions, options.shapes or SHAPES, options.m or M, threads)
    matrix = QUICK if options.quick else full
    peers = installed_peers()
    for name in PEERS.keys() - peers:
        print(f"{name} is not installed and is omitted; install it with pip install 'abq-explorer[peers]'.", flush=True)
    rows = bench_kernels(matrix.precisions, matrix.shapes, matrix.m, matrix.threads, _show, peers)
    content = {"machine": describe_machine(peers, matrix.threads), "measurements": [asdict(row) for row in rows]}
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.markdown:
        words = sys.argv[1:] if arguments is None else arguments
        options.markdown.write_text(page(content, shlex.join(["python", "benchmarks/cpu_peers.py", *words])))
    return content


def _show(row: KernelMeasurement) -> None:
    print(row_text(asdict(row)), flush=True)


def _shape(text: str) -> tuple[int, int]:
    n, _, k = text.partition("x")
    return int(n), int(k)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4096x4096, M = 1, 8, 64, one thread: under 3 minutes")
    parser.add_argument("--shapes", type=_shape, nargs="+", help="outputs x inputs; default: those of the page")
    parser.add_argument("--m", type=int, nargs="+", help=f"input rows; default: {M}")
    parser.add_argument("--threads", type=int, help="default: ABQ_THREADS, or all cores")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--markdown", type=Path, help="file for the page")
    return parser


if __name__ == "__main__":
    main()
