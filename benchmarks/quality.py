"""Perplexity of the methods on one model, data and seed: `python benchmarks/quality.py` writes docs/results.md.

Every row is calibrated and evaluated in this run; the raw figures go to benchmarks/results/quality.json.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from pathlib import Path

import torch
import transformers

from abq_core.artifacts import MemoryStore
from abq_core.calibrate import calibrate
from abq_core.data import segments
from abq_core.evaluate import evaluate, perplexity_gap
from abq_core.models import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.runtime import quantized_model, weight_bytes
from abq_core.spec import METHODS, CalibrationSpec

ROOT = Path(__file__).parent.parent
PRECISIONS = ("W6A6", "W4A4", "W3A8", "W2A8", "W2*A8")


def measure(base: LoadedModel, spec: CalibrationSpec, ids: torch.Tensor) -> dict[str, object]:
    """Calibrate one row and evaluate it."""
    started = time.perf_counter()
    store = MemoryStore()
    calibrate(base, spec, store)
    calibrated = time.perf_counter() - started
    model = quantized_model(base, spec.precision, store, "simulated")
    scores = evaluate(model, base, ids)
    return {
        "precision": str(spec.precision),
        "method": spec.method,
        "perplexity": scores.perplexity,
        "perplexity_stderr": scores.perplexity_stderr,
        "kl_mean": scores.kl_mean,
        "same_top": scores.same_top,
        "segment_losses": scores.segment_losses,
        "stored_bits": spec.precision.stored_bits,
        "weight_bytes": weight_bytes(model),
        "calibration_seconds": round(calibrated, 1),
    }


def main() -> None:
    """Parse the command line, run the grid, write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--segments", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--eval-segments", type=int, default=128)
    parser.add_argument("--eval-seq-len", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/quality.json")
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs/results.md")
    arguments = parser.parse_args()
    base = load_model(arguments.model)
    ids = segments(
        arguments.data, base.tokenizer, arguments.eval_segments, arguments.eval_seq_len, arguments.seed, "evaluation"
    )
    full = evaluate(base, base, ids)
    rows = []
    for precision in PRECISIONS:
        for method in METHODS:
            spec = CalibrationSpec(
                arguments.model,
                Precision.parse(precision),
                method,
                data=arguments.data,
                segments=arguments.segments,
                seq_len=arguments.seq_len,
                epochs=arguments.epochs,
                seed=arguments.seed,
            )
            rows.append(measure(base, spec, ids))
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "segment_losses"}), flush=True)
    result = {
        "command": shlex.join(["python", "benchmarks/quality.py", *sys.argv[1:]]),
        "options": {k: str(v) for k, v in vars(arguments).items() if k not in ("json", "markdown")},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokens": ids.numel(),
        "full": {
            "perplexity": full.perplexity,
            "perplexity_stderr": full.perplexity_stderr,
            "weight_bytes": weight_bytes(base),
        },
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    arguments.markdown.write_text(markdown(result))


def markdown(result: dict) -> str:
    """The page docs/results.md."""
    full, options = result["full"], result["options"]
    cells = {(row["precision"], row["method"]): row for row in result["rows"]}
    lines = [
        "# Results",
        "",
        f"Perplexity (with its standard error) of the four methods on the model `{options['model']}`, "
        f"{result['tokens']:,} held-out tokens; calibration with {options['segments']} segments of "
        f"{options['seq_len']} tokens and {options['epochs']} epochs where a method learns. Full precision: "
        f"**{full['perplexity']:.2f}** ± {full['perplexity_stderr']:.2f}.",
        "",
        "| precision | stored bits | size of the linears | " + " | ".join(f"`{m}`" for m in METHODS) + " |",
        "|---|---|---|" + "---|" * len(METHODS),
    ]
    for precision in PRECISIONS:
        first = cells[precision, "rtn"]
        values = [cells[precision, m] for m in METHODS]
        best = min(v["perplexity"] for v in values)
        shown = [
            f"{'**' if v['perplexity'] == best else ''}{v['perplexity']:.2f}{'**' if v['perplexity'] == best else ''}"
            f" ± {v['perplexity_stderr']:.2f}"
            for v in values
        ]
        size = f"{first['weight_bytes'] / 2**20:.2f} MiB ({full['weight_bytes'] / first['weight_bytes']:.2f}x smaller)"
        lines.append(f"| {precision} | {first['stored_bits']} | {size} | " + " | ".join(shown) + " |")
    others = [m for m in METHODS if m != "abq"]
    lines += [
        "",
        "How much lower the perplexity of `abq` is, with the standard error of the difference on the same text:",
    ]
    lines += ["", "| precision | " + " | ".join(f"than `{m}`" for m in others) + " |", "|---|" + "---|" * len(others)]
    for precision in PRECISIONS:
        best_losses = cells[precision, "abq"]["segment_losses"]
        gaps = [perplexity_gap(best_losses, cells[precision, m]["segment_losses"]) for m in others]
        lines.append(f"| {precision} | " + " | ".join(f"{gap:.2f} ± {stderr:.2f}" for gap, stderr in gaps) + " |")
    starred, plain = (cells[precision, "abq"] for precision in ("W2*A8", "W3A8"))
    lines += [
        "",
        "`W2*A8` and `W3A8` both store three planes a weight, so by size they are each other's rival: `abq` reaches "
        f"{starred['perplexity']:.2f} with the five levels of the former and {plain['perplexity']:.2f} with the eight "
        "of the latter.",
    ]
    lines += ["", "Mean KL divergence to full precision (nats a token) and how often the top token stays the same:", ""]
    lines += ["| precision | " + " | ".join(f"`{m}`" for m in METHODS) + " |", "|---|" + "---|" * len(METHODS)]
    for precision in PRECISIONS:
        values = [cells[precision, m] for m in METHODS]
        lines.append(
            f"| {precision} | " + " | ".join(f"{v['kl_mean']:.3f}, {100 * v['same_top']:.1f} %" for v in values) + " |"
        )
    lines += [
        "",
        "The standard error of one perplexity is mostly the different difficulty of the segments; all methods read the "
        "same ones, so the paired differences of the second table are far more certain. Sizes are FP16 against bit "
        "planes with scales and zero points; `W2*A8` stores three planes for its five levels.",
        "",
        f"Made by `{result['command']}` with Python {result['python']}, torch {result['torch']}, transformers "
        f"{result['transformers']}; the text is the standard library of that Python. Raw figures: "
        "`benchmarks/results/quality.json`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
