"""Tensors of checked safetensors files, also integers, read one at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from abq_core.models.errors import ModelError
from abq_core.models.safetensors_header import check_header, read_header

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


class Entry(NamedTuple):
    """Where a tensor is. start, size: bytes in the file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


class SafetensorsFiles:
    """The tensors of some files, by name. The headers are checked; values are read when they are asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises UnsafeModelError, ModelError."""
        entries: dict[str, Entry] = {}
        for file in files:
            check_header(file, integers=True)
            header, start = read_header(file)
            for name, entry in header.items():
                if name in entries:
                    raise ModelError(f"{file} has the tensor '{name[:80]}', which another file has too.")
                first, last = entry["data_offsets"]
                dtype = _DTYPES.get(entry["dtype"])
                if dtype is None:
                    raise ModelError(f"{file} stores '{name[:80]}' as {entry['dtype']}, which is not supported.")
                entries[name] = Entry(file, dtype, tuple(entry["shape"]), start + first, last - first)
        self.entries: Mapping[str, Entry] = entries

    def read(self, name: str) -> Tensor:
        """Read one tensor from the file rather than map it: a file that shrinks is then an error, not a signal.

        Raises ModelError.
        """
        entry = self.entries[name]
        raw = np.fromfile(entry.file, np.uint8, entry.size, offset=entry.start)
        if len(raw) < entry.size:
            raise ModelError(f"{entry.file} became shorter while it was read. Download it again.")
        return torch.from_numpy(raw).view(entry.dtype).reshape(entry.shape)
