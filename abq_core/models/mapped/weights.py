"""The tensors of safetensors files, memory-mapped."""

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from abq_core.models.safetensors_header import read_header

MAPPED_BYTES = 64 << 20  # smaller checkpoints are converted to float32 when they are loaded

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class _MappedFile(NamedTuple):
    """pages: the mapped file.  address: of its first byte in memory."""

    pages: mmap.mmap
    address: int


class MappedWeights:
    """The floating-point tensors of checked safetensors files, by name, in the files' dtypes.

    A page of a file is read when a value on it is first used; `release` drops it from the process's resident memory.
    Do not write to the tensors: the files stay unchanged, and `release` discards what was written.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Map the files. No value is read yet."""
        self._files: list[_MappedFile] = []
        tensors: dict[str, Tensor] = {}
        for file in files:
            header, start = read_header(file)
            with file.open("rb") as stream:
                pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            content = torch.frombuffer(pages, dtype=torch.uint8)
            self._files.append(_MappedFile(pages, content.data_ptr()))
            for name, entry in header.items():
                if entry["dtype"] in _DTYPES:
                    first, last = entry["data_offsets"]
                    values = _values(content[start + first : start + last], _DTYPES[entry["dtype"]])
                    tensors[name] = values.view(entry["shape"])
        self.tensors: Mapping[str, Tensor] = tensors

    def holds(self, tensor: Tensor) -> bool:
        """Whether the values of `tensor` are in one of the files."""
        return self._place(tensor) is not None

    def release(self, module: nn.Module) -> None:
        """Drop the pages of a module's parameters from resident memory; the next use reads them again."""
        if not hasattr(mmap, "MADV_DONTNEED"):  # Windows
            return
        for parameter in module.parameters():
            if place := self._place(parameter):
                file, start = place
                begin = start - start % mmap.PAGESIZE
                file.pages.madvise(mmap.MADV_DONTNEED, begin, start + parameter.nbytes - begin)

    def _place(self, tensor: Tensor) -> tuple[_MappedFile, int] | None:
        """The file of a tensor, and its first byte in the file."""
        for file in self._files:
            start = tensor.data_ptr() - file.address
            if 0 <= start < len(file.pages):
                return file, start
        return None


def _values(content: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in some bytes of a file; copied if their address is not a multiple of the value's size."""
    return (content if content.data_ptr() % dtype.itemsize == 0 else content.clone()).view(dtype)
