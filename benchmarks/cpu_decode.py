"""End-to-end text generation on this machine's CPU: tokens per second, time to first token and memory of each column.

Each column runs in its own process, so that its memory is measured alone. The columns generate in turn, so that
background load affects all of them equally.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from kernels.host.threads import THREADS_WAIT

os.environ.update({**THREADS_WAIT, **os.environ})  # read when torch is imported

import psutil
import torch
from column_process import ColumnProcess, answer_rounds, in_turn
from pages.measured_part import BEGIN, END, replace_measured
from random_models import CONFIGS, one_block_model, repeat_block

from abq_core.inference.generate import Token, generate_endlessly
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.reference import BUILTIN
from abq_core.precision import Precision
from app.services.speed.decode_columns import TORCH_COLUMNS, bf16, dynamic_int8, held_bytes, path_of
from app.services.speed.throughput import PROMPT
from kernels.benchmark.machine import describe_machine
from kernels.host.threads import thread_count

COLUMNS = (*TORCH_COLUMNS, "W2A8", "W2*A8", "W4A4", "W4A8", "W6A6", "W8A8")
RESULT = Path(__file__).parent / "results" / "cpu-decode.json"
_PROMPT = PROMPT + " those of the module that it was made for," * 2
_STARTS = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the JSON; print the tables and insert them into the page."""
    options = _options(arguments)
    result: dict[str, Any] = {"machine": _machine(), "start": start_up(), "prompt": _PROMPT, "tokens": options.tokens}
    result["models"] = {}
    for name in options.models:
        result["models"][name] = measure(name, options.columns, options.rounds, options.tokens)
        options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    page = measured_page(result)
    print(page)
    if options.markdown is not None:
        replace_measured(options.markdown, page)


def start_up() -> dict[str, float]:
    """Median seconds in a new process to import the engine, and from then until its first product is done."""
    code = (
        "import time; begin = time.perf_counter(); import numpy as np; from kernels import dispatch; "
        "from kernels.cpu import engine; from kernels.formats.weight import pack_weight; ready = time.perf_counter(); "
        "ones = np.ones(64, np.float32); weight = pack_weight(np.ones((64, 64), int), 2, ones, np.ones(64, int)); "
        "dispatch.linear(ones[None], weight, 8); print(ready - begin, time.perf_counter() - ready)"
    )
    runs = []
    for _ in range(_STARTS):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append([float(word) for word in done.stdout.split()])
    imported, first = (median(seconds) for seconds in zip(*runs[1:], strict=True))  # the first may have compiled
    return {"import_seconds": imported, "first_product_seconds": first}


def measured_page(result: dict[str, Any]) -> str:
    """Format all results as Markdown."""
    machine, start = result["machine"], result["start"]
    facts = (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['read_gb_per_second']:.1f} GB/s memory read "
        f"bandwidth; torch {machine['versions']['torch']}; {machine['date']}. A new process needs "
        f"{start['import_seconds']:.2f} s to import the engine and {start['first_product_seconds']:.2f} s more for "
        "its first product.\n"
    )
    return "\n".join([facts, *(table(name, measured) for name, measured in result["models"].items())])


def measure(name: str, columns: Sequence[str], rounds: int, tokens: int) -> dict[str, Any]:
    """Measure every column of one model: {"prompt_tokens", "columns": [row, ...]}. fp32, the largest, runs alone."""
    alone = [column for column in columns if column == "fp32"]
    rest = [column for column in columns if column != "fp32"]
    rows = []
    for group in (alone, rest):
        rows += in_turn((ColumnProcess(f"{name} {one}", _serve, name, one) for one in group), rounds, tokens)
    return _summary(rows)


def table(name: str, measured: dict[str, Any]) -> str:
    """Format the rows as a Markdown table."""
    lines = [
        f"### {name}",
        "",
        "| | path | tokens/s | speedup over bf16 | CPU per token | first token | weights | compression vs. bf16 | "
        "process |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in measured["columns"]:
        faster, smaller = (
            f"{row[key]:.1f}x" if key in row else "" for key in ("faster_than_bf16", "smaller_than_bf16")
        )
        lines.append(
            f"| {row['column']} | {row['path']} | {row['tokens_per_second']:.2f} | {faster} | "
            f"{row['cpu_seconds_per_token'] * 1e3:.0f} ms | "
            f"{row['first_token_seconds']:.2f} s | {row['weight_bytes'] / 2**20:.1f} MiB | {smaller} | "
            f"{row['resident_bytes'] / 2**20:.0f} MiB |"
        )
    return "\n".join([*lines, ""])


def _serve(pipe: Connection, name: str, column: str) -> None:
    torch.set_num_threads(thread_count())
    before = psutil.Process().memory_info().rss
    model = _column(name, column)
    _write(model, 3)  # compiles kernels and allocates buffers
    _release_memory()
    held = held_bytes(model)
    row = {"column": column, "path": path_of(model), "weight_bytes": held, "empty_process_bytes": before}
    answer_rounds(pipe, row, lambda tokens: _write(model, tokens))


def _release_memory() -> None:
    """Return the memory that building the model used to the system, because decoding does not need it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _column(name: str, column: str) -> LoadedModel:
    model = load_model(BUILTIN) if name == BUILTIN else one_block_model(name)
    if column == "bf16":
        model = bf16(model)
    elif column == "int8":
        model = dynamic_int8(model)
    elif column not in TORCH_COLUMNS:
        model = rounded_model(model, Precision.parse(column), "packed")
    if name != BUILTIN:
        model = repeat_block(model, CONFIGS[name].num_hidden_layers)
    return model


def _write(model: LoadedModel, tokens: int) -> dict[str, Any]:
    """Generate one text: seconds to the first token, then wall and CPU seconds (of all threads) per token."""
    walls, cpus, clock = list[float](), list[float](), time.process_time()
    for event in generate_endlessly({"": model}, _PROMPT, tokens):
        if isinstance(event, Token):
            walls.append(event.seconds)
            cpus.append(time.process_time() - clock)
    return {
        "first": walls[0],
        "between": [later - earlier for earlier, later in pairwise(walls)],
        "cpu": [later - earlier for earlier, later in pairwise(cpus)],
        "resident_bytes": psutil.Process().memory_info().rss,
        "prompt_tokens": len(model.tokenizer(_PROMPT)["input_ids"]),
    }


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds and tokens, and the ratio of each column to bf16."""
    prompt_tokens = rows[0]["rounds"][0]["prompt_tokens"]
    for row in rows:
        rounds = row.pop("rounds")
        row["tokens_per_second"] = 1 / median(seconds for one in rounds for seconds in one["between"])
        row["cpu_seconds_per_token"] = median(seconds for one in rounds for seconds in one["cpu"])
        row["rounds_tokens_per_second"] = [1 / median(one["between"]) for one in rounds]
        row["first_token_seconds"] = median(one["first"] for one in rounds)
        row["resident_bytes"] = max(one["resident_bytes"] for one in rounds)
    for baseline in [row for row in rows if row["column"] == "bf16"]:
        for row in rows:
            row["faster_than_bf16"] = row["tokens_per_second"] / baseline["tokens_per_second"]
            row["smaller_than_bf16"] = baseline["weight_bytes"] / row["weight_bytes"]
    return {"prompt_tokens": prompt_tokens, "columns": rows}


def _machine() -> dict[str, Any]:
    """The machine, including what only the results of a whole model depend on."""
    machine = describe_machine([], thread_count(), also=("abq-explorer", "transformers"))
    whole = {"memory_bytes": psutil.virtual_memory().total, "system": platform.platform()}
    return {**machine, **whole}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["llama-1b", BUILTIN], choices=[*CONFIGS, BUILTIN])
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="fp32, bf16, int8 and precisions")
    parser.add_argument("--rounds", type=int, default=3, help="texts per column")
    parser.add_argument("--tokens", type=int, default=16, help="tokens per text")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--markdown", type=Path, help=f"page in which to replace the part between {BEGIN} and {END}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
