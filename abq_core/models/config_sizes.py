"""Limits on the sizes in a config, so that a hostile config cannot exhaust memory."""

from collections.abc import Mapping
from typing import Any

from abq_core.models.errors import UnsafeModelError

_MAX_BLOCKS = 512
_MAX_EXPERTS = 1024
_MAX_EXPERTS_IN_ALL_BLOCKS = 1 << 16  # each becomes separate modules, even on the meta device
_MAX_SIZE = 1 << 24


def check_sizes(config: Mapping[str, Any], name: str) -> None:
    """Refuse sizes beyond those of any real model.

    Raises UnsafeModelError with a message that starts with `name`.
    """
    experts = 1
    for key, value in config.items():
        if not (key.startswith("num_") or key.endswith(("_size", "_dim")) or key == "max_position_embeddings"):
            continue
        is_experts = key.startswith("num_") and key.endswith("experts")
        limit = _MAX_BLOCKS if key == "num_hidden_layers" else _MAX_EXPERTS if is_experts else _MAX_SIZE
        if isinstance(value, int | float) and not 0 <= value <= limit:
            raise UnsafeModelError(f"{name} has {key} {str(value)[:40]}: it must be between 0 and {limit:,}.")
        if is_experts and isinstance(value, int):
            experts = max(experts, value)
    blocks = config.get("num_hidden_layers")
    if isinstance(blocks, int) and blocks * experts > _MAX_EXPERTS_IN_ALL_BLOCKS:
        raise UnsafeModelError(
            f"{name} has {blocks * experts:,} experts in all its blocks; the limit is {_MAX_EXPERTS_IN_ALL_BLOCKS:,}."
        )
