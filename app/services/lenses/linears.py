"""One linear of a model by block and name."""

from typing import TYPE_CHECKING

from app.services.errors import ServiceError
from app.services.registry import ModelRegistry

if TYPE_CHECKING:
    from torch import Tensor


def linear_weight(registry: ModelRegistry, ref: str, block: int, tensor: str) -> "Tensor":
    """A copy of the linear's weight, (rows, k) float32.

    Raises ModelError, and ServiceError for a block or a linear that the model does not have.
    """
    from abq_core.models.architectures import blocks_of
    from abq_core.quantization.quant_linear import linears_of

    base = registry.full(ref)
    blocks = len(blocks_of(base.model))
    if not 0 <= block < blocks:
        raise ServiceError(f"There is no block {block}: this model has the blocks 0 to {blocks - 1}.")
    with base.block(block) as found:
        linears = linears_of(found)
        if tensor not in linears:
            raise ServiceError(f"There is no linear {tensor[:80]!r} in block {block}: use {', '.join(linears)}.")
        return linears[tensor].weight.detach().float().cpu().clone()
