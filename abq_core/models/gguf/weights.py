"""The weights of a GGUF file: read one tensor at a time, dequantized to float32."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from abq_core.models.errors import ModelError
from abq_core.models.gguf.header import Header, Tensor

_BYTES_AT_ONCE = 1 << 20  # fits into the processor's cache
_INFINITY = {"F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80), "F32": (np.uint32, 0x7F800000)}


@dataclass(frozen=True)
class StoredWeights:
    """How a file stores the linears of its blocks.

    types: most weights first.  bits: average bits of a weight, scales included.  quantized: at least one is.
    """

    types: tuple[str, ...]
    bits: float
    quantized: bool


def read_tensor(header: Header, tensor: Tensor) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Read and dequantize one tensor. Returns float32 of its shape, exactly the values that the file encodes.

    Raises ModelError if the file ends, or without the package gguf.
    """
    return decoded(header, tensor, read_blocks(header, tensor)).reshape(tensor.shape)


def read_blocks(header: Header, tensor: Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """The bytes of one tensor as the file stores them, (..., blocks of a row * bytes of a block).

    Raises ModelError if the file ends.
    """
    return _bytes(header, tensor).reshape(*tensor.shape[:-1], -1)


def decoded(
    header: Header, tensor: Tensor, blocks: "np.ndarray[Any, np.dtype[np.uint8]]"
) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """The float32 values that blocks of a tensor's type encode. Raises ModelError without the package gguf."""
    try:
        from gguf import GGMLQuantizationType, dequantize
    except ImportError as error:
        raise ModelError(
            f"Reading {header.file} needs the package gguf. Install it: pip install 'abq-explorer[gguf]'."
        ) from error
    with np.errstate(over="ignore", invalid="ignore"):  # hostile scales; the caller checks the values
        return np.ascontiguousarray(dequantize(blocks, GGMLQuantizationType[tensor.type.name]), np.float32)


def not_finite(header: Header) -> str | None:
    """The name of the first tensor with a value that is not finite, or None.

    A block is finite if its float16 scales are: its integers and their products with a float16 are far from float32's
    limits. Blocks with scales of another form are decoded. Raises ModelError without the package gguf.
    """
    for tensor in header.tensors.values():
        whole = max(1, _BYTES_AT_ONCE // tensor.type.size) * tensor.type.size
        for at in range(0, tensor.size, whole):
            part = _bytes(header, tensor, at, min(whole, tensor.size - at)).reshape(-1, tensor.type.size)
            if tensor.type.is_quantized and not tensor.type.scales:
                finite = bool(np.isfinite(decoded(header, tensor, part)).all())
            elif tensor.type.is_quantized:
                scales = (np.ascontiguousarray(part[:, start : start + 2]) for start in tensor.type.scales)
                finite = all(np.isfinite(scale.view(np.float16)).all() for scale in scales)
            else:
                integer, infinity = _INFINITY[tensor.type.name]
                finite = bool(((part.view(integer) & integer(infinity)) != infinity).all())
            if not finite:
                return tensor.name
    return None


def stored_weights(header: Header) -> StoredWeights:
    """How the file stores the linears of its blocks. Raises ModelError for a file without any."""
    values: Counter[str] = Counter()
    size = 0
    for tensor in header.tensors.values():
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            values[tensor.type.name] += tensor.numel
            size += tensor.size
    if not values:
        raise ModelError(f"{header.file} has no linear layers. Use the file of a language model.")
    quantized = any(tensor.type.is_quantized for tensor in header.tensors.values() if tensor.type.name in values)
    return StoredWeights(tuple(name for name, _ in values.most_common()), 8 * size / values.total(), quantized)


def _bytes(
    header: Header, tensor: Tensor, at: int = 0, count: int | None = None
) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Bytes of a tensor. Read from the file rather than mapped: a file that shrinks is then an error, not a signal."""
    count = tensor.size if count is None else count
    found = np.fromfile(header.file, np.uint8, count, offset=tensor.start + at)
    if len(found) < count:
        raise ModelError(f"{header.file} became shorter while it was read. Download it again.")
    return found
