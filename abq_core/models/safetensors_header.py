"""Check safetensors headers from the raw bytes, before any library opens the file."""

import json
import math
from pathlib import Path
from typing import Any

from abq_core.models.errors import ModelError, UnsafeModelError

_BYTES_OF = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_BYTES_OF_INTEGERS = _BYTES_OF | {"F8_E4M3": 1}  # of files that another program quantized
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_MAX_HEADER_BYTES = 2 << 20  # ten times the header of a file with 2,000 tensors
_MAX_TENSORS = 20_000
_MAX_DIMENSIONS = 8
_MAX_EXTENT = 1 << 46  # of one dimension, and of a byte offset


def check_header(file: Path, integers: bool = False) -> int:
    """Check a safetensors header. Returns the number of floating-point values in the file.

    integers: weights may be integers or FP8, as quantized models store them.
    Raises UnsafeModelError for a header beyond the limits, ModelError for damaged files and unexpected integer weights.
    """
    size = file.stat().st_size
    raw = _header_bytes(file, size)
    body_bytes = size - 8 - len(raw)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        if len(header) > _MAX_TENSORS:
            raise UnsafeModelError(f"{file} has {len(header):,} tensors; the limit is {_MAX_TENSORS:,}.")
        values, end = 0, 0
        for name, entry in header.items():
            values += _check_tensor(file, name, entry, integers)
            end = max(end, entry["data_offsets"][1])
    except ModelError:
        raise
    except (RecursionError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f"{file} has a header that cannot be read ({error!r}). Download it again.") from error
    if end != body_bytes:
        raise ModelError(
            f"{file} is damaged: its header describes {end:,} bytes, but {body_bytes:,} follow. Download it again."
        )
    return values


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The entries of a checked file, by the name of the tensor, and the offset of the data in bytes."""
    raw = _header_bytes(file, file.stat().st_size)
    header: dict[str, Any] = json.loads(raw)
    header.pop("__metadata__", None)
    return header, 8 + len(raw)


def _header_bytes(file: Path, size: int) -> bytes:
    """The JSON part of the header: its length is the little-endian integer in the first 8 bytes."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise ModelError(f"{file} is a Git LFS pointer, not the weights. Run 'git lfs pull' in that folder.")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ModelError(f"{file} is not a complete safetensors file ({size:,} bytes). Download it again.")
        if length > _MAX_HEADER_BYTES:
            raise UnsafeModelError(f"{file} has a header of {length:,} bytes; the limit is {_MAX_HEADER_BYTES:,}.")
        return stream.read(length)


def _check_tensor(file: Path, name: str, entry: dict[str, Any], integers: bool) -> int:
    """Number of floating-point values of one tensor; 0 for masks and indices.

    Raises ModelError for integer weights unless they are expected.
    """
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < _MAX_EXTENT for n in (*shape, *offsets)):
        raise UnsafeModelError(f"{file} has a tensor '{name[:80]}' of an impossible size. Download it again.")
    count = math.prod(shape)
    sizes = _BYTES_OF_INTEGERS if integers else _BYTES_OF
    is_weight = len(shape) == 2 and not integers
    if kind not in _FLOATS and (is_weight or kind not in sizes):
        if integers:
            raise ModelError(f"{file} stores '{name[:80]}' as {str(kind)[:20]}, which is not supported.")
        raise ModelError(f"{file} stores '{name[:80]}' as {kind}: the model is quantized already. Use the original.")
    if len(offsets) != 2 or count * sizes[kind] != offsets[1] - offsets[0]:
        raise ModelError(f"{file} is damaged: '{name[:80]}' of shape {shape} has bytes {offsets}. Download it again.")
    return count if kind in _FLOATS else 0
