"""AutoRound with its own package (`auto-round`): reads a model and calibration tokens, writes dequantized weights.

`exchange.py` defines input and output. Activations are quantized per token during learning, as in the evaluation.
"""

import importlib.metadata
from typing import Any

from auto_round import AutoRound
from exchange import Task, read_task


def settings(task: Task) -> dict[str, Any]:
    """AutoRound's defaults (learned range and rounding, best step kept), at the precision of the row.

    float32 throughout, because its default, bfloat16, would reduce its accuracy.
    """
    return {
        "bits": task.weight_bits,
        "group_size": task.group_size or -1,
        "sym": task.symmetric,
        "data_type": "int",
        "act_bits": task.act_bits,
        "act_group_size": -1,
        "act_sym": False,
        "act_dynamic": True,
        "act_data_type": "int",
        "iters": task.steps,
        "batch_size": 8,
        "scale_dtype": "fp32",
        "amp": False,
        "enable_torch_compile": False,
        "seed": task.seed,
    }


def main() -> None:
    """Quantize the model of the command line and write the weights."""
    task = read_task(__doc__)
    model, tokenizer = task.load()
    options = settings(task)
    rounder = AutoRound(
        model,
        tokenizer,
        dataset=[segment.unsqueeze(0) for segment in task.tokens],
        nsamples=len(task.tokens),
        seqlen=task.tokens.shape[1],
        device_map="cpu",
        **options,
    )
    model, layers = rounder.quantize()
    chosen = [f"{name}.weight" for name, config in layers.items() if config["bits"] == task.weight_bits]
    named = {name.replace(".orig_layer", ""): value for name, value in model.named_parameters()}
    package = f"auto-round {importlib.metadata.version('auto-round')}"
    task.write({name: named[name] for name in chosen}, package, options)


if __name__ == "__main__":
    main()
