"""Hidden states of many segments, in memory or in a temporary file."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

IN_MEMORY_BYTES = 1 << 30  # larger ones are in a file
_LARGE_FILES = Path("/var/tmp")  # on disk even where /tmp is in memory


class HiddenFile:
    """Float32 hidden states (segments, tokens, hidden) in a temporary file, read and written by segment like a tensor.

    The file has no name: it leaves the disk with this object. It is in `TMPDIR`, otherwise in /var/tmp.
    """

    def __init__(self, segments: int, tokens: int, width: int) -> None:
        """Raises OSError if the folder for temporary files cannot be written."""
        self.shape = torch.Size((segments, tokens, width))
        folder = None if os.environ.get("TMPDIR") or not _LARGE_FILES.is_dir() else _LARGE_FILES
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, which: int | slice) -> Tensor:
        """A copy of one segment, (tokens, hidden), or of consecutive ones. Raises OSError."""
        first, count = self._place(which)
        values = torch.empty((count, *self.shape[1:]))
        self._file.seek(first * self._segment_bytes)
        view, done = _bytes_of(values), 0
        while done < len(view):
            read = self._file.readinto(view[done:])
            if not read:
                raise OSError(f"The temporary file of hidden states ends before segment {first + count - 1}.")
            done += read
        return values if isinstance(which, slice) else values[0]

    def __setitem__(self, which: int | slice, values: Tensor) -> None:
        """Write one segment or consecutive ones. Raises OSError if the disk is full."""
        first, count = self._place(which)
        written = values.detach().to("cpu", torch.float32).expand(count, *self.shape[1:]).contiguous()
        self._file.seek(first * self._segment_bytes)
        view, done = _bytes_of(written), 0
        while done < len(view):
            done += self._file.write(view[done:])

    @property
    def _segment_bytes(self) -> int:
        return 4 * self.shape[1] * self.shape[2]

    def _place(self, which: int | slice) -> tuple[int, int]:
        """The first segment and the number of segments."""
        if isinstance(which, slice):
            first, last, _ = which.indices(len(self))
            return first, max(0, last - first)
        if not -len(self) <= which < len(self):
            raise IndexError(f"Segment {which} of {len(self)}.")
        return which % len(self), 1


HiddenStates = Tensor | HiddenFile


def _bytes_of(values: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return values.view(-1).view(torch.uint8).numpy().data


def empty_states(segments: int, like: Tensor) -> HiddenStates:
    """Uninitialized hidden states of `segments` segments.

    like: the hidden states of one segment, (..., tokens, hidden), with the dtype and the device. Large ones on the CPU
    are in a file.
    """
    tokens, width = like.shape[-2:]
    if like.device.type == "cpu" and segments * tokens * width * like.element_size() > IN_MEMORY_BYTES:
        return HiddenFile(segments, tokens, width)
    return torch.empty((segments, tokens, width), dtype=like.dtype, device=like.device)
