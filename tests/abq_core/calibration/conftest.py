"""The first block of the tiny Llama with everything that calibrating it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from abq_core.calibration.block_inputs import capture_block_inputs, input_peaks, run_block
from abq_core.calibration.block_quantizer import BlockQuantizer
from abq_core.methods import METHODS, Switches
from abq_core.models.architectures import architecture_of, blocks_of
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import linears_of


@dataclass(frozen=True)
class FirstBlock:
    """hidden: (segments, tokens, hidden) at its input.

    peaks: max|X| per input channel of its linears.
    """

    module: nn.Module
    hidden: Tensor
    arguments: dict[str, Any]
    peaks: dict[str, Tensor]
    quantizer: Callable[..., BlockQuantizer]


@pytest.fixture(scope="module")
def first_block(base: LoadedModel) -> FirstBlock:
    inputs = capture_block_inputs(
        base.model, torch.randint(1, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    )
    module = blocks_of(base.model)[0]
    with input_peaks(module) as peaks:
        run_block(module, inputs.hidden, inputs.arguments[0])

    def quantizer(precision: str, switches: Switches = METHODS["abq"], *, compensate: bool = False) -> BlockQuantizer:
        precisions = dict.fromkeys(linears_of(module), Precision.parse(precision))
        architecture, layout = architecture_of(base.model), HeadLayout.of(base.model.config)
        return BlockQuantizer(
            module, architecture, layout, precisions, switches, compensate=compensate, input_peaks=peaks
        )

    return FirstBlock(module, inputs.hidden, inputs.arguments[0], peaks, quantizer)
