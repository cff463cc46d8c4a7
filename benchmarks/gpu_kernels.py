"""The GPU engine against other libraries, written as JSON. Of the project it needs `kernels` alone.

PYTHONPATH=. python benchmarks/gpu_kernels.py --json benchmarks/results/gpu-kernels.json

gemlite and humming-kernels are timed too where they are installed. They compile at their first call on a shape and a
number of tokens; when --compiling-seconds are used up, they are left out, and a line says so. The file is written anew
after each shape and number of tokens: a run that is cut leaves what it has measured.
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
    """Measure, print a line for each row, write the file."""
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
    """The command line; --quick changes what is not named on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", default=PRECISIONS, help="with commas between")
    parser.add_argument(
        "--shapes", default=f"{LLAMA_7B},{LLAMA_13B},{LLAMA_70B}", help="outputs x inputs, with commas between"
    )
    parser.add_argument("--m", default=TOKENS, help="tokens, with commas between")
    parser.add_argument("--quick", action="store_true", help="fewer precisions, shapes and numbers of tokens")
    parser.add_argument("--compiling-seconds", type=float, default=120.0, help="for peers that compile (120)")
    parser.add_argument("--apart", action="store_true", help="no launch begins before the one before it has ended")
    parser.add_argument("--json", type=Path, help="the file to write; none without it")
    if parser.parse_args(words).quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args(words)


def show(row: KernelMeasurement) -> None:
    """One line."""
    factors = ", ".join(f"{factor:.2f}x {engine}" for engine, factor in row.speedup.items())
    reached = "" if row.limit is None else f"{row.limit[1]:.0%} of {row.limit[0]}, "
    print(
        f"{row.n}x{row.k} M={row.m:<5} {row.engine:<14} {row.precision:<6} {row.median_us:9.1f} µs, cold "
        f"{row.cold_us:9.1f} µs, {reached}{'exact' if row.exact else 'WRONG':<6} {row.path}; {factors}",
        flush=True,
    )


def as_json(row: KernelMeasurement) -> dict[str, Any]:
    """A row, with the limit that binds and the share of it that was reached."""
    name, share = row.limit or (None, None)
    return {**asdict(row), "limit": name, "limit_share": share}


if __name__ == "__main__":
    main()
