"""Run a GGUF file in llama.cpp, through the package xllamacpp."""

import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np


def main(file: str, request_file: str, answer_file: str) -> None:
    """Compute log-probabilities, one request per token, and a greedy continuation."""
    import xllamacpp  # optional: this script runs only where it is installed

    request = np.load(request_file)
    ids, prompt = request["ids"], request["prompt"].tolist()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx = 64 + max(ids.shape[1], len(prompt) + int(request["new_tokens"]))
    parameters.n_parallel, parameters.warmup, parameters.verbosity = 1, False, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(request["threads"])
    server = xllamacpp.Server(parameters)
    vocabulary = int(request["vocabulary"])
    rows = np.empty((*ids.shape, vocabulary), np.float32)
    for row, segment in zip(rows, ids.tolist(), strict=True):
        for at in range(len(segment)):
            row[at] = _log_probabilities(server, segment[: at + 1], vocabulary)
    started = time.perf_counter()
    generated = _ask(server, prompt, n_predict=int(request["new_tokens"]), ignore_eos=True)["tokens"]
    np.savez(
        answer_file,
        log_probabilities=rows,
        generated=np.array(generated, np.int64),
        seconds=time.perf_counter() - started,
        runtime=f"llama.cpp (xllamacpp {version('xllamacpp')})",
    )


def _log_probabilities(server: Any, prompt: list[int], vocabulary: int) -> np.ndarray:
    """Log-probabilities of every next token, (vocabulary,) float32."""
    answer = _ask(server, prompt, n_predict=1, n_probs=vocabulary)
    top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    row = np.full(vocabulary, np.nan, np.float32)
    row[[one["id"] for one in top]] = [one["logprob"] for one in top]
    if np.isnan(row).any():
        raise ValueError(f"llama.cpp gave {len(top)} of {vocabulary} log-probabilities")
    return row


def _ask(server: Any, prompt: list[int], **options: Any) -> dict[str, Any]:
    return server.handle_completions(
        {"prompt": prompt, "temperature": 0, "cache_prompt": True, "return_tokens": True, **options}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
