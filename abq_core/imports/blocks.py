"""What a run stores of an import: the decoded parameters of each block, and those outside the blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from abq_core.calibration.artifacts import CheckpointStore
from abq_core.calibration.quantized_block import MissingBlockError
from abq_core.imports.base_layout import BaseLayout
from abq_core.imports.source import ActivationGrid, ImportSource
from abq_core.quantization.exact_dtype import narrowest


@dataclass(frozen=True)
class ImportedPart:
    """One block, or the parameters outside the blocks.

    parameters: by their name below the block, or in the model, in the smallest dtype that holds the values exactly.
    By linear of a block: stored_bytes in the imported file; how its inputs are rounded, if they are; levels: (values,
    counts), how many weights are at each level, int64 both.
    """

    parameters: Mapping[str, Tensor]
    stored_bytes: Mapping[str, int]
    activations: Mapping[str, ActivationGrid]
    levels: Mapping[str, tuple[Tensor, Tensor]]

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dictionary for a safetensors file."""
        tensors = {f"parameters.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"stored_bytes.{name}": torch.tensor(count) for name, count in self.stored_bytes.items()}
        tensors |= {f"activations.{name}": torch.tensor([*map(int, grid)]) for name, grid in self.activations.items()}
        for name, (values, counts) in self.levels.items():
            tensors[f"levels.{name}"] = torch.stack([values, counts])
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "ImportedPart":
        """The inverse of `to_tensors`."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            parts.setdefault(kind, {})[name] = value
        return cls(
            parameters=parts.get("parameters", {}),
            stored_bytes={name: int(value) for name, value in parts.get("stored_bytes", {}).items()},
            activations={
                name: ActivationGrid(int(bits), bool(symmetric))
                for name, (bits, symmetric) in parts.get("activations", {}).items()
            },
            levels={name: (value[0], value[1]) for name, value in parts.get("levels", {}).items()},
        )


def read_block(source: ImportSource, base: BaseLayout, block: int) -> ImportedPart:
    """Read and decode the parameters of one block. Raises ModelError."""
    parameters, stored_bytes, activations, levels = {}, {}, {}, {}
    for inside, name in base.blocks[block].items():
        found = source.read(name)
        parameters[inside] = narrowest(found.values)
        if name not in base.linears:
            continue
        linear = inside.removesuffix(".weight")
        stored_bytes[linear] = source.sizes[name]
        if name in source.activations:
            activations[linear] = source.activations[name]
        if found.levels is not None:
            values, counts = torch.unique(found.levels, return_counts=True)
            levels[linear] = (values.long(), counts)
    return ImportedPart(parameters, stored_bytes, activations, levels)


def read_outside(source: ImportSource, base: BaseLayout) -> ImportedPart:
    """Read and decode the parameters outside the blocks, with an own LM head of a tied model. Raises ModelError."""
    names = dict.fromkeys((*base.outside, *(name for name in (base.head,) if name in source.sizes)))
    return ImportedPart({name: narrowest(source.read(name).values) for name in names}, {}, {}, {})


def stored_part(store: CheckpointStore, index: int) -> ImportedPart:
    """A part of a finished run: a block, or at the number of blocks those outside them. Raises MissingBlockError."""
    tensors = store.load(index)
    if tensors is None:
        raise MissingBlockError(
            f"Part {index} of this import is missing or damaged. If its job has not finished, resume it; otherwise "
            "make the part again with `abq runs repair RUN`."
        )
    return ImportedPart.from_tensors(tensors)
