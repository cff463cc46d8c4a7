"""Compare the GPU engine with other libraries; write JSON.

Needs only the package `kernels` of the project.
PYTHONPATH=. python benchmarks/gpu_kernels.py --json benchmarks/results/gpu-kernels.json

gemlite and humming-kernels are timed as well if they are installed. They compile at their first call for a shape and
number of tokens; when --compiling-seconds are used up, they are omitted with a message. The file is rewritten after
each shape and number of tokens, so that an interrupted run keeps its results.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_machine import describe_gpu

from kernels.cuda import driver
from kernels.cuda.bench import Limits, bench_gpu
from kernels.cuda.peers import LeftOut
from kernels.measurement import KernelMeasurement

PRECISIONS = "W2A8,W2*A8,W2A2,W3A8,W4A4,W4A8,W6A6,W8A8"
LLAMA_7B, LLAMA_13B, LLAMA_70B = "4096x4096,11008x4096,4096x11008", "5120x5120,13824x5120,5120x13824", "8192x28672"
TOKENS = "1,2,4,8,16,32,64,256,1024,4096"
QUICK = {"precisions": "W2A8,W4A4,W8A8", "shapes": "4096x4096,11008x4096", "m": "1,8,64,1024"}


def main(words: list[str] | None = None) -> None:
    """Measure, print a line per row, write the file."""
    arguments = read_arguments(words)
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    tokens = [int(m) for m in arguments.m.split(",")]
    on = driver.device(0)
    if arguments.apart:
        on.overlaps = False
    report: dict[str, Any] = {
        "machine": describe_gpu(on),
        "command": sys.argv[1:] if words is None else words,
        "limits": None,
        "left_out": [],
        "measurements": [],
    }

    def write() -> None:
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=1))

    def tell(one: LeftOut) -> None:
        report["left_out"].append(asdict(one))
        print(one, flush=True)

    def tell_limits(found: Limits) -> None:
        report["limits"] = asdict(found)
        rates = (f"{kind} {rate / 1e12:.0f} TOP/s" for kind, rate in found.operations_per_second.items())
        print(f"copies {found.gb_per_second:.0f} GB/s, {', '.join(rates)}", flush=True)

    def keep(row: KernelMeasurement) -> None:
        rows = report["measurements"]
        if rows and [rows[-1][name] for name in "nkm"] != [row.n, row.k, row.m]:
            write()
        rows.append(as_json(row))
        show(row)

    bench_gpu(
        on,
        arguments.precisions.split(","),
        [(n, k) for n, k in shapes],
        tokens,
        on_measurement=keep,
        on_left_out=tell,
        on_limits=tell_limits,
        compiling_seconds=arguments.compiling_seconds,
    )
    write()


def read_arguments(words: list[str] | None) -> argparse.Namespace:
    """Parse the command line; --quick changes the defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", default=PRECISIONS, help="comma-separated")
    parser.add_argument(
        "--shapes", default=f"{LLAMA_7B},{LLAMA_13B},{LLAMA_70B}", help="outputs x inputs, comma-separated"
    )
    parser.add_argument("--m", default=TOKENS, help="tokens, comma-separated")
    parser.add_argument("--quick", action="store_true", help="fewer precisions, shapes and numbers of tokens")
    parser.add_argument("--compiling-seconds", type=float, default=120.0, help="for all peers that compile (120)")
    parser.add_argument("--apart", action="store_true", help="disable overlapping launches")
    parser.add_argument("--json", type=Path, help="file to write; default: none")
    if parser.parse_args(words).quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args(words)


def show(row: KernelMeasurement) -> None:
    """Print one row as a line."""
    factors = ", ".join(f"{factor:.2f}x {engine}" for engine, factor in row.speedup.items())
    reached = "" if row.limit is None else f"{row.limit[1]:.0%} of {row.limit[0]}, "
    print(
        f"{row.n}x{row.k} M={row.m:<5} {row.engine:<14} {row.precision:<6} {row.median_us:9.1f} µs, cold "
        f"{row.cold_us:9.1f} µs, {reached}{'exact' if row.exact else 'WRONG':<6} {row.path}; {factors}",
        flush=True,
    )


def as_json(row: KernelMeasurement) -> dict[str, Any]:
    """A row as JSON, with its bottleneck and the share of it that was reached."""
    name, share = row.limit or (None, None)
    return {**asdict(row), "limit": name, "limit_share": share}


if __name__ == "__main__":
    main()
