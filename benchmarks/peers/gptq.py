"""GPTQ by `gptqmodel`: a model and its calibration tokens in, dequantized weights out.

`exchange.py` says what goes in and out. GPTQ rounds weights only: the row's activation bits come in at the evaluation.
"""

import importlib.metadata
import os
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer, as on two cores, it stops at the start

import torch
from exchange import Task, read_task
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig


def settings(task: Task) -> dict[str, Any]:
    """GPTQ with its better choices: columns in the order of their activations, and the range with the least error.

    Where weights are in groups, groups in that order instead: a group stays a stretch of columns, as it does with us.
    """
    return {
        "bits": task.weight_bits,
        "group_size": task.group_size or -1,
        "sym": task.symmetric,
        "desc_act": not task.group_size,
        "act_group_aware": bool(task.group_size),
        "mse": 2.4,
        "format": "gptq_v2",  # zero points as they are; the older format stores them one too small until it is loaded
        "offload_to_disk": False,
    }


def main() -> None:
    """Quantize what the command line names and write the weights."""
    task = read_task(__doc__)
    asked = settings(task)
    model = GPTQModel.load(str(task.model), QuantizeConfig(**asked), device="cpu", dtype=torch.float32)
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in task.tokens]
    model.quantize(rows, batch_size=1, backend=BACKEND.TORCH)
    weights = {}
    for name, module in model.model.named_modules():
        if hasattr(module, "qweight"):
            module.scales = module.scales.float()  # kept as float16; dequantized in float32
            weights[f"{name}.weight"] = module.dequantize_weight().T
    task.write(weights, f"gptqmodel {importlib.metadata.version('gptqmodel')}", asked)


if __name__ == "__main__":
    main()
