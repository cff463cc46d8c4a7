"""A column of `decode_peers.py`: a GGUF file in another engine, in a process without this program's libraries.

llama.cpp's times are its own. Of ik_llama.cpp only the prompt is timed: its package makes a Python object for every
token of the vocabulary before it samples, which takes longer than the rest.
"""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from column_process import answer_rounds
from decode_round import Request, answer


def serve(pipe: Connection, engine: str, file: str, context: int, threads: int) -> None:
    """Load a file into llama.cpp or ik_llama.cpp, and answer rounds. context: tokens."""
    measure = (_llama_cpp if engine == "llama.cpp" else _ik_llama_cpp)(file, context, threads)
    row = {"engine": engine, "weights": Path(file).stem, "bytes": Path(file).stat().st_size}
    answer_rounds(pipe, row, measure)


def _llama_cpp(file: str, context: int, threads: int) -> Callable[[Request], dict[str, Any]]:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = context + 64, 1, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)

    def times(ids: list[int], tokens: int) -> dict[str, float]:
        asked = {"prompt": ids, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        found: dict[str, float] = server.handle_completions(asked)["timings"]
        return found

    def measure(request: Request) -> dict[str, Any]:
        prompt, decode = times(request.long, 1), times(request.short, request.tokens + 1)
        return answer(request, prompt["prompt_ms"] / 1e3, [decode["predicted_per_token_ms"] / 1e3])

    return measure


def _ik_llama_cpp(file: str, context: int, threads: int) -> Callable[[Request], dict[str, Any]]:
    from ik_llama_cpp import IkLlama

    llama = IkLlama(file, n_ctx=context + 64, n_threads=threads, verbose=False)

    def measure(request: Request) -> dict[str, Any]:
        started = time.perf_counter()
        llama.generate(request.long, max_tokens=0)
        return answer(request, time.perf_counter() - started, [])

    return measure
