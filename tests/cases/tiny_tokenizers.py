"""Tiny byte-level BPE tokenizers: one that adds nothing to a text, and one of a chat model that adds BOS."""

from collections.abc import Sequence
from pathlib import Path

from family_cases import family_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

VOCABULARY = 300
CONTEXT = 128
END_OF_TEXT, BOS, START_OF_TURN, END_OF_TURN = CHAT_TOKENS = ("<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
_SENTENCE = "The module provides functions to read and write files. def open(path): return the file of the path. "


def tiny_tokenizer(special_tokens: Sequence[str] = (END_OF_TEXT,)) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with every byte and a few words. The first special token is BOS and end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_SENTENCE * 4], trainer)
    first = special_tokens[0]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=first, eos_token=first, model_max_length=CONTEXT
    )


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that puts <s> in front of a text, and has a chat template that writes <s> itself.

    Its end of text differs from the end of a turn, which only the template names.
    """
    tokenizer = tiny_tokenizer(CHAT_TOKENS)
    tokenizer.bos_token = BOS
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, CHAT_TOKENS.index(BOS))]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def chat_folder(case: str, folder: Path) -> Path:
    """A model of a family (`family_cases.CONFIGS`) with random weights and the chat tokenizer."""
    logging.disable_progress_bar()
    family_model(case).save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return folder
