"""Run a folder in stock transformers; a fourth argument names a module to import first."""

import importlib
import json
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def main(folder: str, request_file: str, answer_file: str, plugin: str = "") -> None:
    """Compute log-probabilities and a greedy continuation."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if plugin:
        importlib.import_module(plugin)
    request = np.load(request_file)
    torch.set_num_threads(int(request["threads"]))
    model, report = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    wrong = sorted(
        {*report["missing_keys"], *report["unexpected_keys"], *(key for key, *_ in report["mismatched_keys"])}
    )
    if wrong:
        raise ValueError(f"weights that are missing or have no place: {', '.join(wrong[:5])}")
    _apply_transforms(model, Path(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if (found := tokenizer(str(request["text"]))["input_ids"]) != request["text_ids"].tolist():
        raise ValueError(f"AutoTokenizer makes {len(found)} other tokens of a text than the run's tokenizer")
    model.eval()
    with torch.inference_mode():
        logits = [model(torch.from_numpy(ids)[None]).logits[0].float() for ids in request["ids"]]
        prompt, new = torch.from_numpy(request["prompt"])[None], int(request["new_tokens"])
        ids = prompt
        for _ in range(new):  # without a cache, as the run is computed: rounding depends on the order of sums
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        seconds = _decode_seconds(model, prompt, new)
    np.savez(
        answer_file,
        log_probabilities=torch.stack(logits).log_softmax(-1).numpy(),
        generated=ids[0, prompt.shape[1] :].numpy(),
        seconds=seconds,
        runtime=_runtime(plugin),
    )


def _decode_seconds(model: torch.nn.Module, prompt: torch.Tensor, new: int) -> float:
    """Seconds of a greedy continuation with a KV cache."""
    ids, cache, started = prompt, None, time.perf_counter()
    for _ in range(new):
        output = model(ids, past_key_values=cache, use_cache=True)
        ids, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
    return time.perf_counter() - started


def _apply_transforms(model: torch.nn.Module, folder: Path) -> None:
    """Apply the transforms that the config describes: transformers alone ignores them."""
    quantization = json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config", {})
    if quantization.get("transform_config"):
        from compressed_tensors.transform import TransformConfig, apply_transform_config

        apply_transform_config(model, TransformConfig.model_validate(quantization["transform_config"]))


def _runtime(plugin: str) -> str:
    other = plugin or "compressed-tensors"
    package = {"abq_core": "abq-explorer"}.get(other, other)
    return f"transformers {version('transformers')} with {package} {version(package)}"


if __name__ == "__main__":
    main(*sys.argv[1:])
