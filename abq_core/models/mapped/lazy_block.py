"""A block of a quantized model that is built while it is used."""

from collections.abc import Callable
from typing import Any

from torch import nn


class LazyBlock(nn.Module):
    """A block without weights in memory. `build` makes the block; calling this one builds it, runs it and drops it.

    weight_bytes: of the linears that `build` makes, as a run stores them.
    """

    def __init__(self, build: Callable[[], nn.Module], weight_bytes: int) -> None:
        super().__init__()
        self.build, self.weight_bytes = build, weight_bytes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the block."""
        return self.build()(*args, **kwargs)


def built(block: nn.Module) -> nn.Module:
    """The block itself, or what a LazyBlock makes."""
    made: nn.Module = block.build() if isinstance(block, LazyBlock) else block
    return made
