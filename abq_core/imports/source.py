"""An opened import: which parameters it has, how many bytes each takes, and how to read one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

Format = Literal["gguf", "gptq", "auto-round", "compressed-tensors"]


class StoredTensor(NamedTuple):
    """One parameter as a file encodes it.

    values: float32, in the shape and the order of rows of the base model.  levels: the integer code of each value, in
    steps of its group's scale, int16; None for values that are not on such a grid.
    """

    values: Tensor
    levels: Tensor | None = None


class ActivationGrid(NamedTuple):
    """The integers that each token is rounded to at run time. symmetric: without a zero point."""

    bits: int
    symmetric: bool


@dataclass(frozen=True)
class ImportSource:
    """A checked file or folder with the parameters of one base model.

    name: what the format calls this precision, such as Q4_K_M.  files: those with weights, and the config if the format
    has one.  sizes: bytes of each parameter with its scales and zero points, by its name in the base model.
    activations: how the inputs of linears are rounded, by the name of the linear's weight; others are not rounded.
    read: reads and decodes one parameter; raises ModelError for values that are not finite and for damaged files.
    """

    path: Path
    format: Format
    name: str
    files: tuple[Path, ...]
    sizes: Mapping[str, int]
    activations: Mapping[str, ActivationGrid]
    read: Callable[[str], StoredTensor]

    @property
    def file_bytes(self) -> int:
        """Bytes of the files on disk, with everything that is no weight."""
        return sum(file.stat().st_size for file in self.files)
