"""The metadata of a GGUF file: architecture, sizes, rotary embedding, and what the file says of its origin."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from abq_core.export.errors import ExportError
from abq_core.export.gguf.names import ARCHITECTURES


def architecture(family: str) -> str:
    """llama.cpp's name of a family. Raises ExportError for a family that is not written."""
    found = ARCHITECTURES.get(family)
    if found is None:
        raise ExportError(
            f"The family {family} is not written as GGUF here, only {', '.join(ARCHITECTURES)}. Export to "
            "compressed-tensors instead."
        )
    return found


def add_metadata(writer: Any, config: Any, described: Mapping[str, str]) -> None:
    """Add the sizes of a model to a gguf.GGUFWriter. described: name, description, licence, where known.

    Raises ExportError for a rotary embedding that llama.cpp has no setting for.
    """
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(described["name"])
    writer.add_description(described["description"])
    if "licence" in described:
        writer.add_license(described["licence"])
    writer.add_quantization_version(2)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head_dim)
    _add_rope(writer, config.rope_parameters)


def rope_factors(config: Any) -> NDArray[np.float32] | None:
    """The divisor of every rotary frequency, (head_dim / 2,) float32, which llama.cpp reads as a tensor; None for 1.

    LLaMA 3.1's rule has no setting in the file, and neither have the factors of a GGUF file that the model came from.
    """
    rope = config.rope_parameters
    if rope["rope_type"] == "llama3":
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        width = 2 * len(scaled)
        plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)
        return (plain / scaled).numpy().astype(np.float32)
    if rope["rope_type"] == "longrope":
        return np.array(rope["long_factor"], np.float32)
    return None


def _add_rope(writer: Any, rope: Mapping[str, Any]) -> None:
    from gguf import RopeScalingType

    kind = rope["rope_type"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if kind in ("default", "llama3"):
        return
    if kind == "longrope" and rope["short_factor"] == rope["long_factor"] and rope.get("attention_factor") == 1.0:
        return  # written as factors
    if kind not in ("linear", "yarn"):
        raise ExportError(f"The model scales positions by {kind}, which is not written as GGUF here.")
    writer.add_rope_scaling_type(RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
