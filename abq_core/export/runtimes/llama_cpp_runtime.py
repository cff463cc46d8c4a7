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
    parameters.n_ctx = 64 + max(ids.shape[1], len(prompt) + int(request["new_tokens"]), len(request["text_ids"]))
    parameters.n_parallel, parameters.warmup, parameters.verbosity = 1, False, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(request["threads"])
    server = xllamacpp.Server(parameters)
    vocabulary, plain, new = (int(request[name]) for name in ("vocabulary", "plain", "new_tokens"))
    rows = np.empty((*ids.shape, vocabulary), np.float32)
    for row, segment in zip(rows, ids.tolist(), strict=True):
        for at in range(len(segment)):
            row[at] = _log_probabilities(server, segment[: at + 1], vocabulary, plain)
    _check_tokenizer(server, str(request["text"]), request["text_ids"].tolist(), vocabulary, plain)
    generated = list(prompt)
    for _ in range(new):
        generated.append(int(_log_probabilities(server, generated, vocabulary, plain).argmax()))
    started = time.perf_counter()
    _ask(server, prompt, n_predict=new, ignore_eos=True)
    np.savez(
        answer_file,
        log_probabilities=rows,
        generated=np.array(generated[len(prompt) :], np.int64),
        seconds=time.perf_counter() - started,
        runtime=f"llama.cpp (xllamacpp {version('xllamacpp')})",
    )


def _check_tokenizer(server: Any, text: str, ids: list[int], vocabulary: int, plain: int) -> None:
    """Raise ValueError unless the text has these token ids: their number, and what may follow, are the same."""
    counts = [_ask(server, prompt, n_predict=1)["usage"]["prompt_tokens"] for prompt in (text, ids)]
    by_text, by_ids = (_log_probabilities(server, prompt, vocabulary, plain) for prompt in (text, ids))
    if counts[0] != counts[1] or not np.allclose(by_text, by_ids, atol=1e-3):
        raise ValueError(f"llama.cpp makes {counts[0]} tokens of a text that has {counts[1]}, or others")


def _log_probabilities(server: Any, prompt: list[int] | str, vocabulary: int, plain: int) -> np.ndarray:
    """Log-probabilities of every next token, (vocabulary,) float32.

    They are those before sampling, which the bias concerns alone: after an end of text or a part of a character the
    server would give no probabilities, so it samples a plain token.
    """
    answer = _ask(server, prompt, n_predict=1, n_probs=vocabulary, logit_bias=[[plain, 1e4]])
    top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    row = np.full(vocabulary, np.nan, np.float32)
    row[[one["id"] for one in top]] = [one["logprob"] for one in top]
    if np.isnan(row).any():
        raise ValueError(f"llama.cpp gave {len(top)} of {vocabulary} log-probabilities")
    return row


def _ask(server: Any, prompt: list[int] | str, **options: Any) -> dict[str, Any]:
    return server.handle_completions({"prompt": prompt, "temperature": 0, "cache_prompt": True, **options})


if __name__ == "__main__":
    main(*sys.argv[1:])
