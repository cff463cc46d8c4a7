"""Read the header of a GGUF file: metadata and the place of each tensor, checked before anything is allocated.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. No count or length
of the file is believed: each is compared with a limit and with the bytes that are left.
"""

import math
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from abq_core.models.errors import ModelError, ModelNotFoundError, UnsafeModelError
from abq_core.models.gguf.tensor_types import TENSOR_TYPES, TensorType

MAX_TOKENS = 1 << 19  # Gemma 3 has 262,144
MAX_TEXT_BYTES = 1 << 20  # of one string, such as a chat template

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_HEADER_BYTES = 48 << 20
_MAX_FIELDS = 4096
_MAX_STRINGS = 1 << 20  # of all arrays together: tokens and merges
_MAX_NUMBERS = 1 << 20  # of all arrays together: scores and kinds of tokens
_MAX_TENSORS = 20_000
_MAX_DIMENSIONS = 4
_MAX_EXTENT = 1 << 32  # of one dimension
_MAX_NAME_BYTES = 256
_MAX_ALIGNMENT = 1 << 16
_ALIGNMENT = 32  # where the file names none
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_FIELD_NAME = re.compile(r"[\w.:-]+", re.ASCII)

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class Tensor(NamedTuple):
    """Where a tensor is. shape: rows first, as in torch.  start, size: bytes in the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def numel(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The checked header of a file. fields: metadata by name; arrays are lists.  tensors: by name."""

    file: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def text(self, name: str, default: str | None = None) -> str:
        """A metadata field that must be a string. Raises ModelError."""
        return str(self._field(name, str, "text", default))

    def integer(self, name: str, default: int | None = None) -> int:
        """A metadata field that must be an integer. Raises ModelError."""
        return int(self._field(name, int, "an integer", default))

    def number(self, name: str, default: float | None = None) -> float:
        """A metadata field that must be a finite number. Raises ModelError."""
        value = float(self._field(name, int | float, "a number", default))
        if not math.isfinite(value):
            raise ModelError(f"{self.file} has {name} {value}, which is not a finite number. Download it again.")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A metadata field that must be true or false. Raises ModelError."""
        return bool(self._field(name, bool, "true or false", default))

    def items(self, name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
        """A metadata field that must be an array of this kind. Raises ModelError."""
        found: list[Any] = self._field(name, list, "an array", default)
        if any(type(item) is not kind for item in found):
            raise ModelError(f"{self.file} has a {name} that is not an array of {kind.__name__}. Download it again.")
        return found

    def _field(self, name: str, kind: Any, what: str, default: Any) -> Any:
        value = self.fields.get(name, default)
        if value is None:
            raise ModelError(f"{self.file} lacks the field {name}. Convert the model again with a current llama.cpp.")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ModelError(f"{self.file} has {name} {str(value)[:40]!r}: it must be {what}. Download it again.")
        return value


def read_header(file: Path) -> Header:
    """Read and check the header of a GGUF file; the tensors' values are not read.

    Raises ModelNotFoundError if there is no such regular file, UnsafeModelError for a header beyond the limits,
    ModelError for a damaged file and for storage types that are not supported.
    """
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelNotFoundError(f"{file} is not a regular file.")
        with file.open("rb") as stream:
            return _read(_Cursor(file, stream, found.st_size))
    except OSError as error:
        raise ModelNotFoundError(f"{file} cannot be read ({error.strerror or error}). Check the path.") from error


class _Cursor:
    """Reads the header from its start. No read goes beyond the file or the limit of header bytes."""

    def __init__(self, file: Path, stream: BinaryIO, size: int) -> None:
        self.file, self.size, self.at = file, size, 0
        self.strings, self.numbers = _MAX_STRINGS, _MAX_NUMBERS  # how many more arrays may hold
        self._stream = stream

    def read(self, count: int) -> bytes:
        """The next bytes. Raises ModelError if the file ends before, UnsafeModelError beyond the limit."""
        if count > self.size - self.at:
            raise self.damaged(f"it ends in the header, at byte {self.size:,}")
        if self.at + count > _MAX_HEADER_BYTES:
            raise self.unsafe(f"a header of more than {_MAX_HEADER_BYTES >> 20} MiB")
        raw = self._stream.read(count)
        if len(raw) < count:
            raise self.damaged("it became shorter while it was read")
        self.at += count
        return raw

    def one(self, code: str) -> Any:
        """The next number. code: as in `struct`."""
        return struct.unpack(f"<{code}", self.read(struct.calcsize(f"<{code}")))[0]

    def text(self, limit: int, what: str) -> str:
        """The next string of at most `limit` bytes."""
        length = self.one("Q")
        if length > limit:
            raise self.unsafe(f"a {what} of {length:,} bytes; the limit is {limit:,}")
        raw = self.read(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"it has a {what} that is not UTF-8 text") from error

    def damaged(self, why: str) -> ModelError:
        """The error of a file that cannot be right."""
        return ModelError(f"{self.file} is damaged: {why}. Download it again.")

    def unsafe(self, what: str) -> UnsafeModelError:
        """The error of a file with a size beyond the limits."""
        return UnsafeModelError(f"{self.file} was refused: it has {what}.")


def _read(cursor: _Cursor) -> Header:
    if cursor.size < 24:
        raise cursor.damaged(f"it has {cursor.size} bytes")
    start = cursor.read(4)
    if start != _MAGIC:
        hint = " It is a Git LFS pointer: run 'git lfs pull'." if start == b"vers" else ""
        raise ModelError(f"{cursor.file} is not a GGUF file: it starts with {start!r}, not {_MAGIC!r}.{hint}")
    version = cursor.one("I")
    if version not in _VERSIONS:
        raise ModelError(
            f"{cursor.file} has version {version} of GGUF; versions 2 and 3, little-endian, are supported. Convert the "
            "model again with a current llama.cpp."
        )
    tensors, fields = cursor.one("Q"), cursor.one("Q")
    for count, limit, what in ((tensors, _MAX_TENSORS, "tensors"), (fields, _MAX_FIELDS, "metadata fields")):
        if count > limit:
            raise cursor.unsafe(f"{count:,} {what}; the limit is {limit:,}")
    metadata: dict[str, Any] = {}
    for _ in range(fields):
        name = cursor.text(_MAX_NAME_BYTES, "field name")
        if _FIELD_NAME.fullmatch(name) is None or name in metadata:
            raise cursor.damaged(f"its metadata has the field {name[:60]!r} twice, or the name is malformed")
        metadata[name] = _value(cursor, name, cursor.one("I"))
    return Header(cursor.file, metadata, _tensors(cursor, tensors, _alignment(cursor, metadata)))


def _value(cursor: _Cursor, name: str, kind: int) -> Any:
    if kind == _STRING:
        return cursor.text(MAX_TEXT_BYTES, name)
    if kind in _NUMBERS:
        return cursor.one(_NUMBERS[kind])
    if kind != _ARRAY:
        raise cursor.damaged(f"its field {name} has the unknown type {kind}")
    kind, count = cursor.one("I"), cursor.one("Q")
    if kind == _STRING:
        cursor.strings -= count
        if cursor.strings < 0:
            raise cursor.unsafe(f"a {name} of {count:,} strings; the limit for all arrays is {_MAX_STRINGS:,}")
        return [cursor.text(MAX_TEXT_BYTES, name) for _ in range(count)]
    if kind not in _NUMBERS:
        raise cursor.damaged(f"its field {name} is an array of type {kind}, which is not supported")
    cursor.numbers -= count
    if cursor.numbers < 0:
        raise cursor.unsafe(f"a {name} of {count:,} numbers; the limit for all arrays is {_MAX_NUMBERS:,}")
    code = f"<{count}{_NUMBERS[kind]}"
    return list(struct.unpack(code, cursor.read(struct.calcsize(code))))


def _alignment(cursor: _Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment % 8:
        raise cursor.damaged(
            f"its general.alignment is {str(alignment)[:40]}, not a multiple of 8 from 8 to {_MAX_ALIGNMENT:,}"
        )
    return alignment


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, Tensor]:
    """The tensors by name, all of them inside the file and none over another."""
    described = [_described(cursor) for _ in range(count)]
    start = -(-cursor.at // alignment) * alignment  # of the data
    tensors: dict[str, Tensor] = {}
    for name, kind, shape, offset in described:
        if name in tensors:
            raise cursor.damaged(f"it has the tensor '{name}' twice")
        size = math.prod(shape) // kind.values * kind.size
        if offset % alignment or start + offset + size > cursor.size:
            raise cursor.damaged(
                f"its tensor '{name}' takes {size:,} bytes at offset {offset:,}, which do not lie in the "
                f"{cursor.size:,} bytes of the file or do not start at a multiple of {alignment}"
            )
        tensors[name] = Tensor(name, kind, shape, start + offset, size)
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if tensor.start < end:
            raise cursor.damaged(f"its tensor '{tensor.name}' lies over another tensor")
        end = tensor.start + tensor.size
    return tensors


def _described(cursor: _Cursor) -> tuple[str, TensorType, tuple[int, ...], int]:
    """The next tensor: name, type, shape with rows first, and offset from the start of the data."""
    name = cursor.text(_MAX_NAME_BYTES, "tensor name")
    if _TENSOR_NAME.fullmatch(name) is None:
        raise cursor.damaged(f"it has a tensor with the malformed name {name[:60]!r}")
    dimensions = cursor.one("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise cursor.damaged(f"its tensor '{name}' has {dimensions:,} dimensions")
    shape = tuple(cursor.one("Q") for _ in range(dimensions))[::-1]
    if not all(1 <= extent < _MAX_EXTENT for extent in shape):
        raise cursor.damaged(f"its tensor '{name}' has the impossible shape {shape}")
    number, offset = cursor.one("I"), cursor.one("Q")
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        names = ", ".join(known.name for known in TENSOR_TYPES.values())
        raise ModelError(
            f"{cursor.file} stores '{name}' in type {number} of ggml, which is not supported. Use a file of the types "
            f"{names}."
        )
    if shape[-1] % kind.values:
        raise cursor.damaged(f"its tensor '{name}' has rows of {shape[-1]:,} values, not whole blocks of {kind.name}")
    return name, kind, shape, offset
