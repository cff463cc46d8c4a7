"""Check that stored weights are finite: a NaN or an infinity makes every result useless."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from abq_core.models.errors import ModelError
from abq_core.models.gguf.folder import SUFFIX, header_in
from abq_core.models.gguf.weights import not_finite
from abq_core.models.safetensors_header import read_header

_CHUNK = 1 << 18  # values; fits into the processor's cache
# By safetensors type: the unsigned integer of the same size, the bits without the sign, and those of an infinity.
_FORMATS: dict[str, tuple[Any, int, int]] = {
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
}


def check_values(files: list[Path]) -> None:
    """Check every floating-point value of checked weight files.

    A file is read once per process, and again when it changes. Raises ModelError for a value that is not finite in
    float32.
    """
    for file in files:
        stat = file.stat()
        name = _not_finite(file, stat.st_size, stat.st_mtime_ns)
        if name is not None:
            raise ModelError(
                f"{file} is damaged: '{name[:80]}' holds values that are not finite (NaN or infinity). Download the "
                "model again, or convert it from the original."
            )


@lru_cache(maxsize=4096)
def _not_finite(file: Path, size: int, mtime_ns: int) -> str | None:
    """The name of the first tensor with a value that is not finite, or None."""
    if file.suffix == SUFFIX:
        gguf = header_in(file.parent)
        return None if gguf is None else not_finite(gguf)
    header, start = read_header(file)
    if size <= start:
        return None
    with file.open("rb") as stream:
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            stream.seek(start + first)
            if not _is_finite(stream, last - first, entry["dtype"]):
                return name
    return None


def _is_finite(stream: BinaryIO, size: int, kind: str) -> bool:
    """True if all values of this type in the next `size` bytes are finite in float32."""
    if kind == "F64":
        with np.errstate(over="ignore"):
            return all(np.isfinite(values.astype(np.float32)).all() for values in _chunks(stream, size, np.float64))
    if kind not in _FORMATS:
        return True
    integer, magnitude, infinity = _FORMATS[kind]
    buffer = np.empty(_CHUNK, integer)
    for bits in _chunks(stream, size, integer):
        if np.bitwise_and(bits, integer(magnitude), out=buffer[: len(bits)]).max() >= infinity:
            return False
    return True


def _chunks(stream: BinaryIO, size: int, dtype: Any) -> Iterator[Any]:
    """The values in the next `size` bytes, part by part. A mapped file would count as memory of the process."""
    left = size // np.dtype(dtype).itemsize
    while left > 0:
        values = np.fromfile(stream, dtype, min(left, _CHUNK))
        if not len(values):  # the file was shortened meanwhile
            return
        left -= len(values)
        yield values
