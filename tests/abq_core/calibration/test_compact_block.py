"""Compact blocks: small, and the finished block again, bit for bit."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import calibrated

from abq_core.calibration.artifacts import to_bytes
from abq_core.calibration.compact_block import compact_block, whole_block
from abq_core.methods import METHODS, Switches
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec


@pytest.mark.parametrize("precision", ["W2*A8", "W3A8g32", "W16A4"])
@pytest.mark.parametrize(
    "switches",
    [METHODS["rtn"], METHODS["abq"], replace(METHODS["abq+"], end_to_end=False)],
)
def test_a_compact_block_becomes_the_finished_block_again(
    base: LoadedModel, precision: str, switches: Switches
) -> None:
    store = calibrated(base, precision, switches=switches)
    spec = CalibrationSpec(base.ref, Precision.parse(precision), "rtn", switches=switches)
    moved = 0
    for index, tensors in store.blocks.items():
        compact = compact_block(base, spec, index, tensors)
        assert to_bytes(whole_block(base, spec, index, compact)) == to_bytes(tensors)
        assert not any(name.startswith(("weights.", "parameters.")) for name in compact)
        steps = [tensor for name, tensor in compact.items() if name.startswith("moved.")]
        assert all(tensor.dtype == torch.int8 and tensor.abs().max() == 1 for tensor in steps)
        moved += len(steps)
    assert (moved > 0) == (switches.rounding and Precision.parse(precision).quantizes_weights)
