"""End-to-end text generation on a GPU: tokens per second, time to first token and memory of each column, as JSON.

PYTHONPATH=. python benchmarks/gpu_decode.py --json benchmarks/results/gpu-decode.json

The model has a LLaMA's shapes and random weights: one block is quantized and repeated, each copy in separate memory.
Columns run one after the other, so that the memory of each is measured alone. Every column decodes with the same step
in a CUDA graph (`abq_core/inference/graph_decoder.py`); only the linears of its blocks differ. Embedding, LM head,
norms and attention are float16.
"""

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_machine import describe_gpu
from random_models import CONFIGS, one_block_model, repeat_block

from abq_core.inference.generate import Token, generate_endlessly
from abq_core.inference.graph_decoder import GraphDecoder
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import linear_path, rounded_model, weight_bytes
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from kernels.cuda import driver

FP16, INT8, OURS = "fp16", "int8", "W8A8"
COLUMNS = (FP16, INT8, OURS, "W4A4", "W4A8", "W2A8", "W2*A8")
_PROMPT = "The following functions are"
_WARM_UP_TOKENS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print a line and write the file after each column."""
    options = _options(arguments)
    on = driver.device(0) if options.device == "cuda" else None
    if on is not None and options.apart:
        on.overlaps = False
    result: dict[str, Any] = {
        "machine": describe_gpu(on),
        "command": sys.argv[1:] if arguments is None else list(arguments),
        **{name: getattr(options, name) for name in ("model", "blocks", "tokens", "rounds")},
        "columns": [],
    }
    for column in options.columns:
        result["columns"].append(measure(options.model, options.blocks, column, on, options.rounds, options.tokens))
        compare(result["columns"])
        show(result["columns"][-1])
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def measure(
    name: str, blocks: int, column: str, on: driver.CudaDevice | None, rounds: int, tokens: int
) -> dict[str, Any]:
    """Build, time and release one column.

    Without a GPU the same step runs eagerly, and memory is not measured.
    """
    _release_memory(on)
    model = column_model(name, blocks, column, "cpu" if on is None else on.place)
    list(generate_endlessly({"": model}, _PROMPT, _WARM_UP_TOKENS))
    held = _release_memory(on)
    texts = [_write(model, tokens) for _ in range(rounds)]
    between = [seconds for text in texts for seconds in text["between"]]
    return {
        "column": column,
        "path": linear_path(model),
        "tokens_per_second": 1 / median(between),
        "tokens_per_second_with_recording": len(between) / sum(between),
        "rounds_tokens_per_second": [1 / median(text["between"]) for text in texts],
        "first_token_seconds": median(text["first"] for text in texts),
        "weight_bytes": weight_bytes(model),
        "held_bytes": held,
        "peak_bytes": None if on is None else torch.cuda.max_memory_allocated(on.index),
    }


def column_model(name: str, blocks: int, column: str, place: str) -> LoadedModel:
    """A model of `blocks` equal blocks on "cpu" or "cuda:0", with the linears of a column."""
    model = one_block_model(name)
    if column not in (FP16, INT8):
        model = rounded_model(model, Precision.parse(column), "packed")
    model = to_device(model, place, torch.float16)
    model = repeat_block(to_int8(model) if column == INT8 else model, blocks)
    return replace(model, decoder=model.decoder if place != "cpu" else GraphDecoder(model.model))


def compare(rows: list[dict[str, Any]]) -> None:
    """Add the ratios to FP16 and to our W8A8 to every row, if those were measured."""
    for key, baseline in (("fp16", FP16), ("w8a8", OURS)):
        for base in [row for row in rows if row["column"] == baseline]:
            for row in rows:
                row[f"faster_than_{key}"] = row["tokens_per_second"] / base["tokens_per_second"]
                row[f"smaller_than_{key}"] = base["weight_bytes"] / row["weight_bytes"]


def show(row: dict[str, Any]) -> None:
    """Print one row as a line."""
    factors = "".join(f", {row[f'faster_than_{k}']:.2f}x {k}" for k in ("fp16", "w8a8") if f"faster_than_{k}" in row)
    peak = "" if row["peak_bytes"] is None else f", peak {row['peak_bytes'] / 2**20:.0f} MiB"
    print(
        f"{row['column']:<6} {row['tokens_per_second']:8.2f} tokens/s{factors}; first token "
        f"{row['first_token_seconds']:.3f} s; weights {row['weight_bytes'] / 2**20:.1f} MiB{peak}; {row['path']}",
        flush=True,
    )


def _release_memory(on: driver.CudaDevice | None) -> int | None:
    """Free unused GPU memory and reset the peak.

    Returns the bytes still allocated, or None without a GPU.
    """
    gc.collect()
    if on is None:
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(on.index)
    return torch.cuda.memory_allocated(on.index)


def _write(model: LoadedModel, tokens: int) -> dict[str, Any]:
    """Generate one text: seconds to the first token, then seconds per token, until its logits are on the host."""
    events = generate_endlessly({"": model}, _PROMPT, tokens)
    clock = [event.seconds for event in events if isinstance(event, Token)]
    return {"first": clock[0], "between": [later - earlier for earlier, later in pairwise(clock)]}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try the script")
    parser.add_argument("--model", choices=list(CONFIGS), default="llama-7b")
    parser.add_argument("--blocks", type=int, help="default: the model's number of blocks")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="fp16, int8 (torch) and precisions")
    parser.add_argument("--rounds", type=int, default=3, help="texts per column")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens per text")
    parser.add_argument("--apart", action="store_true", help="disable overlapping launches")
    parser.add_argument("--json", type=Path, help="file to write; default: none")
    options = parser.parse_args(arguments)
    options.blocks = options.blocks or CONFIGS[options.model].num_hidden_layers
    return options


if __name__ == "__main__":
    main()
