"""A GGUF file as an import: every storage type that gguf-py decodes."""

import re
from pathlib import Path

import numpy as np
import torch

from abq_core.imports.base_layout import BaseLayout
from abq_core.imports.gguf_levels import levels_of
from abq_core.imports.source import ImportSource, StoredTensor
from abq_core.models.errors import ModelError
from abq_core.models.gguf.config import HEAD, config_of
from abq_core.models.gguf.header import Header, Tensor, read_header
from abq_core.models.gguf.tensor_names import Layout, stored_tensors
from abq_core.models.gguf.weights import decoded, read_blocks, stored_weights

_COMPARED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_SAME_FAMILY = {"mistral": "llama"}  # transformers' name -> that of a GGUF file
_FILE_TYPES = {
    2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L",
    14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 36: "TQ1_0", 37: "TQ2_0",
}  # fmt: skip  # by general.file_type, `enum llama_ftype` of llama.h
_KIND = re.compile(r"(I?Q|TQ)(\d)")
_MOST_OTHER_TOKENS = 0.01  # share of ids with another text: padding and reserved tokens differ between conversions


def open_gguf(file: Path, base: BaseLayout, tokens: list[str | None]) -> ImportSource:
    """Check a GGUF file against its base model; no weight is read.

    tokens: the text of each token id of the base model, None for an id without one.
    Raises UnsafeModelError, ModelNotFoundError, and ModelError for a file of another model.
    """
    header = read_header(file)
    config = config_of(header)
    _check_same_model(header, base, config)
    _check_tokens(header, base, tokens)
    layout = Layout(config["model_type"], config["num_attention_heads"], config["num_key_value_heads"])
    wanted = dict(base.shapes)
    if base.tied and HEAD in header.tensors:
        wanted[base.head] = base.table_shape
    stored = stored_tensors(header, layout, wanted)

    def read(parameter: str) -> StoredTensor:
        return _read(header, layout, stored[parameter])

    sizes = {parameter: tensor.size for parameter, tensor in stored.items()}
    return ImportSource(file, "gguf", _name(header), (file,), sizes, {}, read)


def _check_same_model(header: Header, base: BaseLayout, config: dict[str, object]) -> None:
    family = base.config.model_type
    if _SAME_FAMILY.get(family, family) != config["model_type"]:
        raise ModelError(
            f"{header.file} has a model of the family {config['model_type']}, but {base.ref} is {family}. Name the "
            "model that the file was made from with --base."
        )
    for name in _COMPARED:
        if config[name] != getattr(base.config, name):
            raise ModelError(
                f"{header.file} has {name} {config[name]}, but {base.ref} has {getattr(base.config, name)}. Name the "
                "model that the file was made from with --base."
            )


def _check_tokens(header: Header, base: BaseLayout, tokens: list[str | None]) -> None:
    """Refuse a file whose token ids mean other texts: perplexity and KL would compare unrelated predictions."""
    stored = header.items("tokenizer.ggml.tokens", str, [])
    known = [(ours, theirs) for ours, theirs in zip(tokens, stored, strict=False) if ours is not None]
    other = sum(ours != theirs for ours, theirs in known)
    if not known or other > _MOST_OTHER_TOKENS * len(known):
        raise ModelError(
            f"{header.file} has other tokens than {base.ref}: {other:,} of {len(known):,} differ. Name the model that "
            "the file was made from with --base."
        )


def _read(header: Header, layout: Layout, tensor: Tensor) -> StoredTensor:
    blocks = read_blocks(header, tensor)
    values = decoded(header, tensor, blocks).reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise ModelError(
            f"{header.file} is damaged: '{tensor.name}' holds values that are not finite (NaN or infinity). Download "
            "it again."
        )
    levels = levels_of(header, tensor, blocks)
    steps = None if levels is None else layout.restore(tensor.name, levels).to(torch.int16)
    return StoredTensor(layout.restore(tensor.name, values), steps)


def _name(header: Header) -> str:
    """The name that llama.cpp gives this mixture of types; that of the most frequent type where it does not fit."""
    types = stored_weights(header).types
    number = header.fields.get("general.file_type")
    named = _FILE_TYPES.get(number) if type(number) is int else None
    kinds = {found.groups() for kind in types if (found := _KIND.match(kind)) is not None}
    found = _KIND.match(named or "")
    return named if named is not None and found is not None and found.groups() in kinds else types[0]
