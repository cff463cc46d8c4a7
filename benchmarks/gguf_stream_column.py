"""A column of `decode_streams.py`: a GGUF file in llama.cpp, whose server decodes requests side by side."""

from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from column_process import answer_rounds
from decode_streams import PROMPT, TOKENS


def serve(pipe: Connection, file: str, most: int, threads: int) -> None:
    """Load a file with room for `most` streams, and answer rounds: numbers of streams, each with its tokens/s."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = most * (PROMPT + TOKENS + 16), most, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)

    def decoded(stream: int) -> float:
        """Seconds of one stream's tokens by llama.cpp's clock."""
        ids = list(range(100 + stream, 100 + stream + PROMPT))
        asked = {"prompt": ids, "n_predict": TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        return float(server.handle_completions(asked)["timings"]["predicted_ms"]) / 1e3

    def measure(streams: list[int]) -> list[float]:
        with ThreadPoolExecutor(most) as pool:
            return [count * TOKENS / max(pool.map(decoded, range(count))) for count in streams]

    answer_rounds(pipe, {"engine": "llama.cpp", "weights": Path(file).stem}, measure)  # type: ignore[arg-type]
