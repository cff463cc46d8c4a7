"""One pass through a block, with attention maps and linear inputs recorded."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abq_core.calibration.block_inputs import block_output, linear_inputs
from abq_core.calibration.hidden_states import HiddenStates
from abq_core.models.attention.function import attention_maps

SAMPLED_TOKENS = 512  # of each linear's input, kept for its distribution


@dataclass(frozen=True)
class LensPass:
    """Results of one pass.

    output: (segments, tokens, hidden).  maps: attention probabilities (segments, heads, q, k).  samples: by linear, the
    first SAMPLED_TOKENS input rows without those of the prefix, (rows, channels); experts without tokens have none.
    """

    output: Tensor
    maps: Tensor
    samples: Mapping[str, Tensor]

    @classmethod
    @torch.no_grad()
    def run(cls, block: nn.Module, hidden: HiddenStates, arguments: dict[str, object], prefix: int = 0) -> "LensPass":
        """Run hidden (segments, tokens, hidden) through `block`, one segment at a time.

        prefix: tokens at the start of each segment that no sample contains. An expert sees the tokens in another
        order, so its samples may contain them.
        """
        samples: dict[str, list[Tensor]] = defaultdict(list)

        def record(name: str, rows: Tensor) -> None:
            if sum(len(part) for part in samples[name]) < SAMPLED_TOKENS:
                samples[name].append(rows[prefix:].clone() if len(rows) == hidden.shape[1] else rows.clone())

        with attention_maps(block) as maps, linear_inputs(block, record):
            output = torch.cat([block_output(block(h.unsqueeze(0), **arguments)) for h in hidden])
        return cls(output, torch.cat(maps), {name: torch.cat(rows)[:SAMPLED_TOKENS] for name, rows in samples.items()})
