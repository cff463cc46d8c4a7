"""The fields of a config that reach transformers, each with bounds, so that a hostile config cannot exhaust memory.

The names are an allow-list: the fields of the family's config class in transformers, and the names that earlier
versions wrote. Other fields are not passed on.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from transformers import CONFIG_MAPPING

from abq_core.models.errors import ModelError, UnsafeModelError

_MAX_EXPERTS_IN_ALL_BLOCKS = 1 << 14  # each becomes separate modules, even on the meta device
_MAX_ITEMS = 512  # of a list, such as one entry per block
_MAX_LABELS = 10_000
_MAX_ROPE_FIELDS = 64
_MAX_CHARACTERS = 1000

# Names that the config classes read from older files; they are not among the fields of every class.
_OLDER_NAMES = frozenset(
    {
        "_sliding_window_pattern",
        "head_dim",
        "model_type",
        "n_embed",
        "partial_rotary_factor",
        "rope_local_base_freq",
        "rope_scaling",
        "rope_theta",
        "rotary_emb_base",
        "rotary_pct",
        "sliding_window_pattern",
        "torch_dtype",
    }
)
# Fields of classifiers and of outputs: a causal language model does not use them, so they are not passed on.
_UNUSED = frozenset(
    {"chunk_size_feed_forward", "id2label", "label2id", "output_attentions", "output_hidden_states", "problem_type"}
)
_FIXED: Mapping[str, bool] = {"return_dict": True, "is_encoder_decoder": False}  # other values break the model
_LABELS = ("id2label", "label2id")
_ROPE = ("rope_parameters", "rope_scaling")
_GENERATION_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")

_TOKENS = (0, 1 << 24)
_FRACTION = (0, 1)
_LIMITS: Mapping[str, tuple[float, float]] = {
    "max_position_embeddings": _TOKENS,
    "num_experts": (0, 1024),
    "num_experts_per_tok": (0, 1024),
    "num_hidden_layers": (0, 512),
    "num_labels": (0, _MAX_LABELS),
    "num_local_experts": (0, 1024),
    "original_max_position_embeddings": _TOKENS,
    "partial_rotary_factor": _FRACTION,
    "rotary_pct": _FRACTION,
    "vocab_size": _TOKENS,
}
_WIDTH = (0, 1 << 20)  # any other number of heads or channels
_NUMBER = (-1e12, 1e12)


def check_fields(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check a config of a supported family. Returns the fields that transformers may read.

    Raises UnsafeModelError for a value beyond those of any real model, ModelError for a value that breaks the model;
    the message starts with `name`.
    """
    allowed = known_fields(str(config.get("model_type")))
    known = {key: value for key, value in config.items() if key in allowed or key in _LIMITS}
    for key, value in known.items():
        _check_value(key, value, name)
    _check_experts(config, name)
    for key, required in _FIXED.items():
        if key in config and config[key] is not required:
            raise ModelError(
                f"{name} has {key} {str(config[key])[:40]}: only {str(required).lower()} is supported. Correct it, or "
                "remove the field."
            )
    return {key: value for key, value in known.items() if key in allowed and key not in _UNUSED}


def check_sizes(config: Mapping[str, Any], name: str) -> None:
    """Check the numbers of a config, whatever its family.

    Raises UnsafeModelError with a message that starts with `name`.
    """
    for key, value in config.items():
        _check_value(key, value, name)
    _check_experts(config, name)


def check_generation(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check the token ids of a generation config. Returns the fields that transformers may read; it has no others.

    Raises UnsafeModelError with a message that starts with `name`.
    """
    known = {key: config[key] for key in _GENERATION_FIELDS if key in config}
    check_sizes(known, name)
    return known


@lru_cache
def known_fields(family: str) -> frozenset[str]:
    """The names of fields that a config of this family may set."""
    config = CONFIG_MAPPING[family]
    aliases = {*config.attribute_map, *config.attribute_map.values()}
    return frozenset({field.name for field in dataclasses.fields(config)} | aliases | _OLDER_NAMES)


def _check_value(key: str, value: Any, name: str) -> None:
    """Refuse a number, text, list or mapping beyond its limit. Wrong types are left to transformers."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        low, high = _limits(key)
        if not low <= value <= high:
            raise UnsafeModelError(
                f"{name} has {key} {str(value)[:40]}: it must be between {low:,.0f} and {high:,.0f}."
            )
    elif isinstance(value, str):
        if len(value) > _MAX_CHARACTERS:
            raise UnsafeModelError(
                f"{name} has a {key} of {len(value):,} characters; the limit is {_MAX_CHARACTERS:,}."
            )
    elif isinstance(value, list):
        _check_count(key, len(value), _MAX_ITEMS, name)
        for item in value:
            if isinstance(item, list | dict):
                raise UnsafeModelError(f"{name} has a {key} with a {type(item).__name__} in it: use plain values.")
            _check_value(key, item, name)
    elif isinstance(value, dict):
        _check_mapping(key, value, name)


def _check_mapping(key: str, value: dict[str, Any], name: str) -> None:
    """Check labels, which are only counted, and the parameters of RoPE, which may be nested by the type of block."""
    if key in _LABELS:
        _check_count(key, len(value), _MAX_LABELS, name)
        return
    if key not in _ROPE:
        raise UnsafeModelError(f"{name} has a {key} with fields in it: use a plain value.")
    _check_count(key, len(value), _MAX_ROPE_FIELDS, name)
    for inner, content in value.items():
        if isinstance(content, dict):
            _check_count(f"{key}.{inner[:40]}", len(content), _MAX_ROPE_FIELDS, name)
            if any(isinstance(one, dict) for one in content.values()):
                raise UnsafeModelError(f"{name} has a {key} that is nested too deeply: use at most two levels.")
            check_sizes(content, name)
        else:
            _check_value(inner, content, name)


def _check_count(key: str, count: int, limit: int, name: str) -> None:
    if count > limit:
        raise UnsafeModelError(f"{name} has a {key} of {count:,} entries; the limit is {limit:,}.")


def _check_experts(config: Mapping[str, Any], name: str) -> None:
    blocks = config.get("num_hidden_layers")
    counts = [config.get(key) for key in ("num_experts", "num_local_experts")]
    experts = max([1, *(count for count in counts if isinstance(count, int))])
    if isinstance(blocks, int) and blocks * experts > _MAX_EXPERTS_IN_ALL_BLOCKS:
        raise UnsafeModelError(
            f"{name} has {blocks * experts:,} experts in all its blocks; the limit is {_MAX_EXPERTS_IN_ALL_BLOCKS:,}."
        )


def _limits(key: str) -> tuple[float, float]:
    """The smallest and largest value of a number with this name."""
    if key in _LIMITS:
        return _LIMITS[key]
    if key.endswith("token_id"):
        return -1, _TOKENS[1]
    return _WIDTH if key.startswith("num_") or key.endswith(("_size", "_dim")) else _NUMBER
