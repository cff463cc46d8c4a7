"""The inputs of a block's linears for a few tokens of a text, at full precision."""

import torch
from torch import Tensor

from abq_core.calibration.block_inputs import block_output, capture_block_inputs, linear_inputs, run_block
from abq_core.models.loading import LoadedModel


@torch.no_grad()
def token_inputs(base: LoadedModel, ids: Tensor, block: int) -> dict[str, Tensor]:
    """The input of each linear of block `block` for one segment, by linear name: (tokens, in_features) float32.

    ids: (1, tokens) int64. Experts without tokens have no entry; the tokens of other experts are not in text order.
    """
    inputs = capture_block_inputs(base.model, ids)
    hidden = inputs.hidden
    for index in range(block):
        with base.block(index) as earlier:
            hidden = run_block(earlier, hidden, inputs.arguments[index])
    found: dict[str, Tensor] = {}

    def keep(name: str, rows: Tensor) -> None:
        found[name] = rows.float().cpu()

    with base.block(block) as last, linear_inputs(last, keep):
        block_output(last(hidden[0].unsqueeze(0).to(base.model.device), **inputs.arguments[block]))
    return found
