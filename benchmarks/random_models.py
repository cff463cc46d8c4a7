"""LLaMA models with random weights: folders for whole runs, and single blocks with a large model's shapes."""

import copy
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from abq_core.inference.decoder import decoder_of
from abq_core.models.architectures import blocks_of
from abq_core.models.attention.function import ATTENTION
from abq_core.models.loading import LoadedModel
from abq_core.models.reference import BUILTIN_FOLDER
from abq_core.models.registration import register_attention
from abq_core.models.shape import ModelShape, shape_of
from abq_core.precision import FULL
from abq_core.quantization.quant_linear import PackedLinear
from kernels.formats.stacked import stack
from kernels.formats.weight import PackedWeight

_CONTEXT = 2048


def _llama(hidden: int, inner: int, blocks: int, heads: int, keys: int, vocabulary: int, tied: bool) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=vocabulary,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=tied,
    )


CONFIGS = {
    "random-256": _llama(256, 704, 8, 4, 4, 8192, tied=True),
    "random-512": _llama(512, 1408, 6, 16, 4, 16384, tied=False),
    "random-1024": _llama(1024, 2816, 4, 16, 16, 32000, tied=False),
    "llama-1b": _llama(2048, 5632, 22, 32, 4, 32000, tied=False),
    "llama-7b": _llama(4096, 11008, 32, 32, 32, 32000, tied=False),
    "llama-3-8b": _llama(4096, 14336, 32, 32, 8, 128256, tied=False),
}


def random_folder(name: str, folder: Path) -> Path:
    """Save that model in FP16 with the built-in model's tokenizer.

    The same name has the same weights.
    """
    logging.disable_progress_bar()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).half().save_pretrained(folder)
    bundled_tokenizer().save_pretrained(folder)
    return folder


def bundled_tokenizer() -> PreTrainedTokenizerBase:
    """The built-in model's tokenizer with a larger maximum length."""
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN_FOLDER)
    tokenizer.model_max_length = _CONTEXT
    return tokenizer


def save_random(name: str, folder: Path) -> Path:
    """Run `random_folder` in a new process, so that its memory does not count for this one."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(random_folder, name, folder).result()


def empty_model(name: str, blocks: int) -> PreTrainedModel:
    """The first blocks of that model on the CPU in fp32, with uninitialized weights."""
    register_attention()
    config = AutoConfig.for_model(**{**CONFIGS[name].to_dict(), "num_hidden_layers": blocks})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=torch.float32)
    model = model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.fill_(1.0)
    return model.eval().requires_grad_(False)


def one_block_model(name: str) -> LoadedModel:
    """That model with a single block, in fp32.

    Weights are normally distributed and rounded to bfloat16 like those of most models; equal names, equal weights.
    """
    model = empty_model(name, 1)
    model.tie_weights()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=model.config.initializer_range).copy_(parameter.bfloat16())
        else:
            parameter.fill_(1.0)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return LoadedModel(name, model, bundled_tokenizer(), FULL)


def repeat_block(loaded: LoadedModel, blocks: int) -> LoadedModel:
    """The model with copies of its one block in separate memory: quantized once, but as large as the whole model."""
    model = loaded.model
    (first,) = blocks_of(model)
    for index in range(1, blocks):
        block = copy.deepcopy(first)
        block.self_attn.layer_idx = index
        for module in block.modules():
            if isinstance(module, PackedLinear) and isinstance(module.packed, PackedWeight):
                module.packed, _ = stack([module.packed])  # a copy aligned to a cache line, like the first
        blocks_of(model).append(block)
    model.config.num_hidden_layers = blocks
    model.config.layer_types = None
    return replace(loaded, decoder=decoder_of(model))


def random_shape(name: str) -> ModelShape:
    """The sizes of that model, without building it."""
    register_attention()
    return shape_of(name, CONFIGS[name])
