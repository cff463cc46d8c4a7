"""GPTQ with `gptqmodel`: reads a model and calibration tokens, writes dequantized weights.

`exchange.py` defines input and output. GPTQ quantizes weights only: the row's activation bits apply at evaluation.
"""

import importlib.metadata
import os
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer, the default on two cores, it fails at the start

import torch
from exchange import Task, read_task
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig


def settings(task: Task) -> dict[str, Any]:
    """GPTQ with its more accurate options: columns ordered by activation, and the range with the least error.

    With group sizes, groups are ordered instead, so that a group remains consecutive columns, as in our format.
    """
    return {
        "bits": task.weight_bits,
        "group_size": task.group_size or -1,
        "sym": task.symmetric,
        "desc_act": not task.group_size,
        "act_group_aware": bool(task.group_size),
        "mse": 2.4,
        "format": "gptq_v2",  # stores zero points unchanged; the older format stores them minus one
        "offload_to_disk": False,
    }


def main() -> None:
    """Quantize the model of the command line and write the weights."""
    task = read_task(__doc__)
    options = settings(task)
    model = GPTQModel.load(str(task.model), QuantizeConfig(**options), device="cpu", dtype=torch.float32)
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in task.tokens]
    model.quantize(rows, batch_size=1, backend=BACKEND.TORCH)
    weights = {}
    for name, module in model.model.named_modules():
        if hasattr(module, "qweight"):
            module.scales = module.scales.float()  # stored as float16; dequantize in float32
            weights[f"{name}.weight"] = module.dequantize_weight().T
    task.write(weights, f"gptqmodel {importlib.metadata.version('gptqmodel')}", options)


if __name__ == "__main__":
    main()
