"""The transformers config of a GGUF file, from its metadata and the shapes of its tensors.

Field names: `gguf-py/gguf/constants.py` of llama.cpp. A field of the architecture that is not known here is refused,
because ignoring it could change the model.
"""

from collections.abc import Callable, Mapping
from typing import Any

from abq_core.models.errors import ModelError
from abq_core.models.gguf.header import Header
from abq_core.models.gguf.weights import read_tensor

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
ROPE_FACTORS = "rope_freqs.weight"  # of LLaMA 3.1 and later
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"  # of Phi-3 with long context
EXTRA_TENSORS = frozenset({ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS})  # read here, not weights of the model

_GEMMA3_PERIOD = 6  # every sixth block has full attention
_GEMMA3_LOCAL_THETA = 10_000.0
_GEMMA3_27B_BLOCKS = 62  # the only size whose attention is not scaled by its head's width
_MAX_BLOCKS = 512
_TOKEN_IDS = ("bos", "eos")
_KNOWN = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.attn_factor",
        "rope.scaling.factor",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "vocab_size",
    }
)
_GEMMA3_KNOWN = frozenset({"attention.sliding_window_pattern", "final_logit_softcapping", "rope.freq_base_swa"})


def config_of(header: Header) -> dict[str, Any]:
    """The content of config.json for this file.

    Raises ModelError for an architecture or a setting that is not supported.
    """
    architecture = header.text("general.architecture")
    complete = _ARCHITECTURES.get(architecture)
    if complete is None:
        raise ModelError(
            f"{header.file} has the architecture {architecture[:60]!r}, which is not supported from a GGUF file. Use "
            f"one of {', '.join(sorted(_ARCHITECTURES))} (LLaMA and Mistral are llama), or the model's original folder."
        )
    parts = header.integer("split.count", 1)
    if parts > 1:
        raise ModelError(f"{header.file} is one of {parts} parts. Merge them with llama-gguf-split --merge.")
    _check_known(header, architecture)
    return complete(header, _common(header, architecture))


def _check_known(header: Header, architecture: str) -> None:
    """Refuse settings of the architecture that are not applied here."""
    known = _KNOWN | _GEMMA3_KNOWN if architecture == "gemma3" else _KNOWN
    names = [name.partition(".")[2] for name in header.fields if name.startswith(f"{architecture}.")]
    unknown = sorted(name for name in names if name not in known and header.fields[f"{architecture}.{name}"] != 0)
    if unknown:
        raise ModelError(
            f"{header.file} has the setting {architecture}.{unknown[0]}, which is not supported. Use the model's "
            "original folder."
        )


def _common(header: Header, architecture: str) -> dict[str, Any]:
    """The fields that all families have."""

    def integer(name: str, default: int | None = None) -> int:
        return header.integer(f"{architecture}.{name}", default)

    heads = integer("attention.head_count")
    if not 1 <= integer("block_count") <= _MAX_BLOCKS or heads < 1:
        raise ModelError(
            f"{header.file} describes {integer('block_count')} blocks of {heads} heads. Download it again."
        )
    head_dim = integer("attention.key_length", integer("embedding_length") // heads)
    if integer("attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{header.file} has values of another width than keys, which is not supported.")
    if architecture != "phi3" and integer("rope.dimension_count", head_dim) != head_dim:
        raise ModelError(f"{header.file} rotates only a part of every head, which is not supported for {architecture}.")
    embedding = header.tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{header.file} lacks the weights of {EMBEDDING}. Download it again.")
    return {
        "hidden_size": integer("embedding_length"),
        "intermediate_size": integer("feed_forward_length"),
        "num_hidden_layers": integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": integer("context_length"),
        "vocab_size": embedding.shape[0],
        "rms_norm_eps": header.number(f"{architecture}.attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": HEAD not in header.tensors,
        "rope_parameters": _rope(header, architecture, integer("context_length")),
        "pad_token_id": None,
        **{
            f"{name}_token_id": header.integer(f"tokenizer.ggml.{name}_token_id")
            for name in _TOKEN_IDS
            if f"tokenizer.ggml.{name}_token_id" in header.fields
        },
    }


def _rope(header: Header, architecture: str, context: int) -> dict[str, Any]:
    """The parameters of RoPE: its base, and how positions are scaled."""
    kind = header.text(f"{architecture}.rope.scaling.type", "none")
    parameters: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": header.number(f"{architecture}.rope.freq_base", 10_000.0),
    }
    if SHORT_FACTORS in header.tensors or LONG_FACTORS in header.tensors:
        original = header.integer(f"{architecture}.rope.scaling.original_context_length")
        return parameters | {
            "rope_type": "longrope",
            "short_factor": _values(header, SHORT_FACTORS),
            "long_factor": _values(header, LONG_FACTORS),
            "factor": context / max(original, 1),
            "attention_factor": header.number(f"{architecture}.rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": original,
        }
    if ROPE_FACTORS in header.tensors:
        # The file has the divisor of every frequency, not the rule that they came from. longrope takes such a list,
        # here the same for short and long texts.
        factors = _values(header, ROPE_FACTORS)
        return parameters | {
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": context,
        }
    if header.number(f"{architecture}.rope.scaling.attn_factor", 1.0) != 1.0:
        raise ModelError(f"{header.file} has {architecture}.rope.scaling.attn_factor, which is not supported.")
    if kind in ("linear", "yarn"):
        parameters |= {"rope_type": kind, "factor": header.number(f"{architecture}.rope.scaling.factor")}
        if kind == "yarn":
            original = header.integer(f"{architecture}.rope.scaling.original_context_length")
            parameters["original_max_position_embeddings"] = original
    elif kind != "none":
        raise ModelError(f"{header.file} scales RoPE by {kind[:40]!r} without its factors, which is not supported.")
    return parameters


def _values(header: Header, name: str) -> list[float]:
    """The values of a short vector of the file."""
    tensor = header.tensors.get(name)
    if tensor is None or tensor.numel > _MAX_BLOCKS:
        raise ModelError(f"{header.file} has no usable {name}. Download it again.")
    return [float(value) for value in read_tensor(header, tensor).reshape(-1)]


def _llama(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    return config | {
        "model_type": "llama",
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
    }


def _qwen2(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "head_dim"} | {"model_type": "qwen2"}


def _qwen3(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    return config | {"model_type": "qwen3", "attention_bias": "blk.0.attn_q.bias" in header.tensors}


def _phi3(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    rotated = header.integer("phi3.rope.dimension_count", config["head_dim"])
    rope = config["rope_parameters"] | {"partial_rotary_factor": rotated / config["head_dim"]}
    return {key: value for key, value in config.items() if key != "head_dim"} | {
        "model_type": "phi3",
        "rope_parameters": rope,
        "original_max_position_embeddings": rope.get(
            "original_max_position_embeddings", config["max_position_embeddings"]
        ),
        "sliding_window": header.integer("phi3.attention.sliding_window", 0) or None,
    }


def _gemma3(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    blocks, heads = config["num_hidden_layers"], config["num_attention_heads"]
    is_27b = blocks == _GEMMA3_27B_BLOCKS
    pattern = header.fields.get("gemma3.attention.sliding_window_pattern", _GEMMA3_PERIOD)
    if isinstance(pattern, list):
        local = [bool(value) for value in pattern]
    else:
        period = header.integer("gemma3.attention.sliding_window_pattern", _GEMMA3_PERIOD)
        local = [(block + 1) % max(period, 1) != 0 for block in range(blocks)]
    theta = header.number("gemma3.rope.freq_base_swa", _GEMMA3_LOCAL_THETA)
    return config | {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": ["sliding_attention" if one else "full_attention" for one in local],
        "sliding_window": header.integer("gemma3.attention.sliding_window"),
        "query_pre_attn_scalar": config["hidden_size"] // heads if is_27b else config["head_dim"],
        "final_logit_softcapping": header.number("gemma3.final_logit_softcapping", 0.0) or None,
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        },
    }


_ARCHITECTURES: Mapping[str, Callable[[Header, dict[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "phi3": _phi3,
}
