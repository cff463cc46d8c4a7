"""The table of storage types is that of ggml."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from abq_core.models.gguf.tensor_types import TENSOR_TYPES


@pytest.mark.parametrize("number", TENSOR_TYPES)
def test_sizes_and_names_are_those_of_ggml(number: int) -> None:
    kind = TENSOR_TYPES[number]
    assert GGMLQuantizationType(number).name == kind.name
    assert (kind.values, kind.size) == gguf.GGML_QUANT_SIZES[GGMLQuantizationType(number)]


@pytest.mark.parametrize("number", [number for number, kind in TENSOR_TYPES.items() if kind.is_quantized])
def test_a_block_is_finite_exactly_if_its_scales_are(number: int) -> None:
    kind = TENSOR_TYPES[number]
    rng = np.random.default_rng(number)
    block = rng.integers(0, 256, (1, kind.size), np.uint8)
    largest = np.array([np.finfo(np.float16).max], np.float16).view(np.uint8)
    for at in kind.scales:
        block[:, at : at + 2] = largest
    assert np.isfinite(gguf.dequantize(block, GGMLQuantizationType(number))).all()
    for at in kind.scales:
        broken = block.copy()
        broken[:, at : at + 2] = np.array([np.nan], np.float16).view(np.uint8)
        assert not np.isfinite(gguf.dequantize(broken, GGMLQuantizationType(number))).all()
