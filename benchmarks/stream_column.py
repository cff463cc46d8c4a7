"""A column of `decode_streams.py`: a model on this program's integer engine."""

import os
import time
from multiprocessing.connection import Connection

from kernels.host.threads import THREADS_WAIT

os.environ.update({**THREADS_WAIT, **os.environ})  # read when torch is imported

import torch
from column_process import answer_rounds
from decode_streams import PROMPT, TOKENS

from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.reader import Reader, most_likely
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from kernels.host.threads import thread_count


def serve(pipe: Connection, folder: str, column: str, way: str) -> None:
    """Round the model of a folder to a precision, and answer rounds: numbers of streams, each with its tokens/s."""
    torch.set_num_threads(thread_count())
    model = rounded_model(load_model(folder), Precision.parse(column), "packed")
    seconds = together if way == "together" else in_turn

    def measure(streams: list[int]) -> list[float]:
        return [count * TOKENS / seconds(model, prompts(count)) for count in streams]

    answer_rounds(pipe, {"engine": f"abq, {way}", "weights": column}, measure)  # type: ignore[arg-type]


def prompts(count: int) -> torch.Tensor:
    """The token ids of `count` different prompts, (count, PROMPT)."""
    return 100 + torch.arange(PROMPT) + torch.arange(count).unsqueeze(1)


@torch.inference_mode()
def together(model: LoadedModel, ids: torch.Tensor) -> float:
    """Seconds of TOKENS forward passes for the next token of every stream, greedy."""
    cache = PreallocatedCache(model.model.config, PROMPT + TOKENS)
    following = model.logits(model.hidden(ids, cache)[:, -1:]).argmax(-1)
    started = time.perf_counter()
    for _ in range(TOKENS):
        following = model.logits(model.hidden(following, cache)).argmax(-1)
    return time.perf_counter() - started


def in_turn(model: LoadedModel, ids: torch.Tensor) -> float:
    """Seconds in which every stream gets TOKENS tokens from the decoder, greedy, one token of each after the other."""
    readers = [Reader(model, PROMPT + TOKENS) for _ in ids]
    following = [most_likely(reader.read(row)) for reader, row in zip(readers, ids.tolist(), strict=True)]
    started = time.perf_counter()
    for _ in range(TOKENS):
        following = [most_likely(reader.read([token])) for reader, token in zip(readers, following, strict=True)]
    return time.perf_counter() - started
