"""Groups of weights that share a scale, and checked numbers of a quantization config."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class FolderError(ValueError):
    """A clause about what is wrong with a folder, such as "has 5 bits"; the caller names the folder."""


def spread(groups: int, k: int, group_size: int | None, name: str) -> Tensor:
    """The group of each of k inputs, (k,) int64. group_size: None to divide the inputs evenly.

    Raises FolderError if this number of groups does not fit.
    """
    if groups == 1:
        size = k
    elif group_size is not None and -(-k // group_size) == groups:
        size = group_size
    elif groups > 0 and k % groups == 0:
        size = k // groups
    else:
        raise FolderError(f"has {groups:,} scales per row for the {k:,} inputs of '{name[:80]}'")
    return torch.arange(k) // size


def number_in(config: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None) -> int:
    """An integer field of a config within bounds; `default` if it is missing or null. Raises FolderError."""
    value = config.get(name)
    value = default if value is None else value
    if type(value) is not int or not low <= value <= high:
        raise FolderError(f"has {name} {str(value)[:40]!r}: it must be a whole number from {low} to {high}")
    return value
