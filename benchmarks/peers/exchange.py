"""Input and output of a peer: reads a model folder and token segments, writes its linears' dequantized weights.

Needs only torch, transformers and safetensors, so that a peer can run in a separate environment.
"""

import argparse
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

_STARTED = time.perf_counter()


@dataclass(frozen=True)
class Task:
    """The task of a peer.

    model: a folder.  tokens: (segments, length) int64, the calibration text.  group_size 0: one scale per row.
    act_bits 16: activations are not quantized.  steps, seed: for a peer that learns.
    """

    model: Path
    tokens: Tensor
    out: Path
    weight_bits: int
    act_bits: int
    group_size: int
    symmetric: bool
    steps: int
    seed: int

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the model in float32, and its tokenizer."""
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32, local_files_only=True)
        return model.eval(), AutoTokenizer.from_pretrained(self.model, local_files_only=True)

    def write(self, weights: dict[str, Tensor], package: str, settings: dict[str, Any]) -> None:
        """Write each linear's dequantized weight (out, in) under its parameter name, with settings and cost.

        Seconds count from the start of the process and include imports and loading.
        """
        kept = {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
        record = {
            "package": package,
            "settings": settings,
            "seconds": round(time.perf_counter() - _STARTED, 1),
            "cpu_seconds": round(time.process_time(), 1),
            "peak_mib": peak_mib(),
        }
        save_file(kept, self.out, {"record": json.dumps(record)})


def read_task(description: str | None) -> Task:
    """Parse the task from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, required=True, help="a folder with config, weights and tokenizer")
    parser.add_argument(
        "--tokens", type=Path, required=True, help="a safetensors file with `tokens` (segments, length)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--weight-bits", type=int, required=True)
    parser.add_argument("--act-bits", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=0)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    values = vars(parser.parse_args())
    return Task(**{**values, "tokens": load_file(values["tokens"])["tokens"]})


def peak_mib() -> int | None:
    """Peak memory of this process in MiB; None if the system does not report it."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found.group(1)) // 1024 if found else None
