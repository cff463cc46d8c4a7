"""The integer levels of GGUF's block formats: what a block decodes to when its scales are 1 and its minima 0."""

from typing import Any

import numpy as np

from abq_core.models.gguf.header import Header, Tensor
from abq_core.models.gguf.weights import decoded

_ONE, _ZERO = b"\x00\x3c", b"\x00\x00"  # 1.0 and 0.0 in float16
_K4 = _ONE + _ZERO + b"\x01" * 4 + b"\x00" * 4 + b"\x01" * 4  # the six-bit scales 1 and minima 0 of Q4_K and Q5_K
_NEUTRAL: dict[str, tuple[tuple[int, bytes], ...]] = {
    "Q4_0": ((0, _ONE),),
    "Q4_1": ((0, _ONE + _ZERO),),
    "Q5_0": ((0, _ONE),),
    "Q5_1": ((0, _ONE + _ZERO),),
    "Q8_0": ((0, _ONE),),
    "Q2_K": ((0, b"\x01" * 16), (80, _ONE + _ZERO)),
    "Q3_K": ((96, b"\x11" * 8 + b"\xaa" * 4 + _ONE),),  # the six-bit scales 33, stored with an offset of 32
    "Q4_K": ((0, _K4),),
    "Q5_K": ((0, _K4),),
    "Q6_K": ((192, b"\x01" * 16 + _ONE),),
    "IQ4_NL": ((0, _ONE),),
    "IQ4_XS": ((0, _ONE + b"\xaa\xaa" + b"\x11" * 4),),
    "TQ1_0": ((52, _ONE),),
    "TQ2_0": ((64, _ONE),),
    "MXFP4": ((0, b"\x80"),),
}  # by storage type: (byte offset in a block, bytes). ggml-common.h has the layouts.


def levels_of(
    header: Header, tensor: Tensor, blocks: "np.ndarray[Any, np.dtype[np.uint8]]"
) -> "np.ndarray[Any, np.dtype[np.float32]] | None":
    """The level of each value in steps of its group's scale, in the shape of the tensor.

    blocks: as `read_blocks` returns them. None for plain floats, and for formats that look up groups of values in a
    codebook (IQ1, IQ2, IQ3) or scale them by a float (NVFP4).
    """
    patches = _NEUTRAL.get(tensor.type.name)
    if patches is None:
        return None
    neutral = blocks.reshape(-1, tensor.type.size).copy()
    for at, content in patches:
        neutral[:, at : at + len(content)] = np.frombuffer(content, np.uint8)
    return decoded(header, tensor, neutral.reshape(blocks.shape)).reshape(tensor.shape)
