"""Tiny random models with a tiny tokenizer, saved as safetensors folders."""

import os
from pathlib import Path

from kernels.host.threads import THREADS_WAIT

os.environ.update({**THREADS_WAIT, **os.environ})  # read when torch is imported

import pytest
import torch
from tiny_tokenizers import CONTEXT, VOCABULARY, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM
from transformers.utils import logging


def save_tiny(model: torch.nn.Module, folder: Path) -> Path:
    """Save the model and the tokenizer in `folder`; matrices are doubled, so that output distributions are peaked."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA folder: hidden 64, 2 blocks, 4 heads, 2 kv heads, context 128."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    return save_tiny(LlamaForCausalLM(config), tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OPT folder: hidden 64, 2 blocks, 4 heads, context 128."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        word_embed_proj_dim=64,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return save_tiny(OPTForCausalLM(config), tmp_path_factory.mktemp("tiny-opt"))
