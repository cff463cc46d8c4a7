"""Write docs/decode-step.md: a token through transformers' modules, through the CPU decoder, and after long texts.

    python benchmarks/decode_step.py

Models have the shapes of published ones and random weights. All are W4A8h8 and packed: both columns multiply on the
same engine. Times need an idle machine.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from pages.measured_part import replace_measured
from random_models import bundled_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3Config,
)

from abq_core.inference.reader import Reader, most_likely
from abq_core.inference.runtime import rounded_model
from abq_core.models.attention.function import ATTENTION
from abq_core.models.loading import LoadedModel
from abq_core.models.registration import register_attention
from abq_core.precision import FULL, Precision
from kernels.benchmark.machine import cpu_name
from kernels.host.threads import thread_count

PAGE = Path(__file__).resolve().parents[1] / "docs" / "decode-step.md"
PRECISION = "W4A8h8"
PROMPT, TOKENS, WARM_UP, ROUNDS = 8, 32, 3, 3
POSITIONS = (16, 512, 2048, 4096)
LONG = ("W4A8h8", "W4A8kv8h8", "W4A8kv4h8")
SMOLLM2 = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192,
)  # fmt: skip
SHAPES: dict[str, PreTrainedConfig] = {
    "SmolLM2-135M": SMOLLM2,
    "Qwen3-0.6B": Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, vocab_size=151936, tie_word_embeddings=True,
    ),
    "Gemma-3-270M": Gemma3TextConfig(
        hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1,
        head_dim=256, vocab_size=262144, sliding_window=512,
    ),
    "Phi-3-mini, 8 of 32 blocks": Phi3Config(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=8, num_attention_heads=32, vocab_size=32064,
        pad_token_id=0,
    ),
    "OPT-125M": OPTConfig(),
    "Pythia-160M": GPTNeoXConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=50304,
    ),
}  # fmt: skip


def random_model(name: str, config: PreTrainedConfig) -> LoadedModel:
    """That shape with random weights, in full precision."""
    register_attention()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
    return LoadedModel(name, model.eval().requires_grad_(False), bundled_tokenizer(), FULL)


def seconds_per_token(model: LoadedModel, positions: int) -> float:
    """The median over TOKENS tokens that follow `positions` random ones."""
    reader = Reader(model, positions + WARM_UP + TOKENS)
    prompt = torch.randint(10, 1000, (positions,), generator=torch.Generator().manual_seed(0)).tolist()
    following, seconds = [most_likely(reader.read(prompt))], []
    for _ in range(WARM_UP + TOKENS):
        started = time.perf_counter()
        following = [most_likely(reader.read(following))]
        seconds.append(time.perf_counter() - started)
    return median(seconds[WARM_UP:])


def families() -> Iterator[list[str]]:
    """The rows of the first table."""
    yield ["shape", "modules, ms per token", "decoder, ms per token", "ratio"]
    for name, config in SHAPES.items():
        model = rounded_model(random_model(name, config), Precision.parse(PRECISION), "packed")
        columns = (replace(model, decoder=None), model)
        rounds = [[seconds_per_token(column, PROMPT) for column in columns] for _ in range(ROUNDS)]
        modules, decoder = (median(times) for times in zip(*rounds, strict=True))
        yield [name, f"{1000 * modules:.1f}", f"{1000 * decoder:.1f}", f"{modules / decoder:.1f}"]


def long_texts() -> Iterator[list[str]]:
    """The rows of the second table."""
    yield ["precision", *(f"{positions:,} positions" for positions in POSITIONS)]
    base = random_model("SmolLM2-135M", SMOLLM2)
    models = [rounded_model(base, Precision.parse(text), "packed") for text in LONG]
    rounds = [
        [[seconds_per_token(model, positions) for positions in POSITIONS] for model in models] for _ in range(ROUNDS)
    ]
    for index, text in enumerate(LONG):
        by_positions = zip(*(times[index] for times in rounds), strict=True)
        yield [text, *(f"{1000 * median(times):.1f}" for times in by_positions)]


def table(rows: Iterator[list[str]]) -> str:
    """A Markdown table, whose first row is the header."""
    header, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *others))


def main() -> None:
    """Measure both tables and write the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    machine = f"{cpu_name()}, {thread_count()} threads, {time.strftime('%Y-%m-%d')}."
    shapes, long = table(families()), table(long_texts())
    replace_measured(PAGE, f"{machine}\n\n{shapes}\n\nMilliseconds per token after a text (SmolLM2-135M):\n\n{long}\n")


if __name__ == "__main__":
    main()
