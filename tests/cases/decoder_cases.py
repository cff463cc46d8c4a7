"""Shared by the tests of the KV cache and of both decoders.

Model families, a prompt, and how they are run.
"""

from pathlib import Path

import torch
from family_cases import family_folder
from torch import Tensor
from transformers import DynamicCache

from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.models.loading import Decoder, LoadedModel, load_model

ON_A_GRAPH = ("llama", "llama-3.1", "mistral", "qwen2")  # families with a decoder for GPUs
DECODED = (  # families with a decoder for CPUs
    *ON_A_GRAPH, "gemma", "gemma2", "gemma3_text", "gpt_neox", "gpt_neox-plain", "gpt_neox-serial", "opt", "opt-gelu",
    "opt-plain", "phi", "phi-normed", "phi3", "phi3-long", "phi3-partial", "qwen3",
)  # fmt: skip
PROMPT = list(range(20, 31))
FOLLOWING = [40, 41, 42, 43, 44, 45]  # tokens after the prompt, one at a time
CAPACITY = len(PROMPT) + len(FOLLOWING)


def load_families(cases: tuple[str, ...], folder: Path, tokenizer: Path) -> dict[str, LoadedModel]:
    """A tiny model of each family."""
    return {case: load_model(str(family_folder(case, folder / case, tokenizer))) for case in cases}


def by_modules(model: LoadedModel, cache: DynamicCache | None = None, following: list[int] = FOLLOWING) -> Tensor:
    """Hidden states of the tokens after the prompt, computed by transformers' modules.

    cache: None for its own.
    """
    cache = cache or DynamicCache(config=model.model.config)
    with torch.inference_mode():
        model.hidden(torch.tensor([PROMPT]), cache)
        return torch.cat([model.hidden(torch.tensor([[token]]), cache)[0] for token in following])


def by_decoder(
    model: LoadedModel, decoder: Decoder, cache: PreallocatedCache, following: list[int] = FOLLOWING
) -> Tensor:
    """The same by a decoder, after a prompt that the modules read."""
    with torch.inference_mode():
        model.hidden(torch.tensor([PROMPT]), cache)
        return torch.stack([decoder.hidden(token, cache) for token in following])
