"""A column of `decode_peers.py`: a model on this program's integer engine."""

import os
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

from kernels.host.threads import THREADS_WAIT

os.environ.update({**THREADS_WAIT, **os.environ})  # read when torch is imported

import torch
from column_process import answer_rounds
from decode_round import Request, answer

from abq_core.inference.generate import Token, generate_endlessly
from abq_core.inference.prompts import starts
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import load_model
from abq_core.models.shape import shape_of
from abq_core.models.tokenizer import decode, text_prefix
from abq_core.planning.size import model_size
from abq_core.precision import Precision
from kernels.host.threads import thread_count


def serve(pipe: Connection, folder: str, column: str) -> None:
    """Round the model of a folder to a precision, and answer rounds."""
    torch.set_num_threads(thread_count())
    full = load_model(folder)
    model = rounded_model(full, Precision.parse(column), "packed")
    size = model_size(shape_of(full.ref, full.model.config), model.precision)
    del full

    def run(ids: list[int], tokens: int) -> tuple[float, list[float]]:
        prompt = decode(model.tokenizer, ids[len(text_prefix(model.tokenizer)) :])
        if starts({"": model}, prompt, tokens)[""].ids != ids:
            raise ValueError(f"A prompt of {len(ids)} tokens becomes others when it is read as text: change --prompt.")
        events = generate_endlessly({"": model}, prompt, tokens)
        walls = [event.seconds for event in events if isinstance(event, Token)]
        return walls[0], [later - earlier for earlier, later in pairwise(walls)]

    def measure(request: Request) -> dict[str, Any]:
        return answer(request, run(request.long, 1)[0], run(request.short, request.tokens + 1)[1])

    answer_rounds(pipe, {"engine": "abq", "weights": column, "bytes": size.total}, measure)
