"""The result of calibrating a block, and the stores that hold it.

A result has integer weights, other parameters, and learned values.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from abq_core.precision import Precision
from abq_core.quantization.quantizers import QuantizedWeight
from kernels.formats.planes import pack_bit_planes, unpack_bit_planes

_WORD = 64  # values of a bit plane that share a machine word


class CheckpointStore(Protocol):
    """A store of finished blocks and of drafts.

    A draft holds the learned values of a block that awaits the end-to-end pass.
    """

    def has(self, block: int) -> bool:
        """True if a finished block was stored.

        Cheap: its content is not read, so `load` may still return None.
        """

    def load(self, block: int) -> dict[str, Tensor] | None:
        """The tensors of a finished block.

        None if it is missing or its content does not match its hash.
        """

    def save(self, block: int, tensors: dict[str, Tensor]) -> str:
        """Store a finished block and remove its draft. Returns the SHA-256 of what was stored."""

    def load_draft(self, block: int) -> dict[str, Tensor] | None:
        """The tensors of a draft; None as for `load`."""

    def save_draft(self, block: int, tensors: dict[str, Tensor]) -> str:
        """Store a draft. Returns the SHA-256 of what was stored."""


class MemoryStore:
    """A CheckpointStore in memory."""

    def __init__(self) -> None:
        self.blocks: dict[int, dict[str, Tensor]] = {}
        self.drafts: dict[int, dict[str, Tensor]] = {}

    def has(self, block: int) -> bool:
        """True if the block is finished."""
        return block in self.blocks

    def load(self, block: int) -> dict[str, Tensor] | None:
        """The tensors of a finished block, or None."""
        return self.blocks.get(block)

    def save(self, block: int, tensors: dict[str, Tensor]) -> str:
        """Keep a finished block and drop its draft. Returns the SHA-256 of its file form."""
        self.blocks[block] = tensors
        self.drafts.pop(block, None)
        return hashlib.sha256(to_bytes(tensors)).hexdigest()

    def load_draft(self, block: int) -> dict[str, Tensor] | None:
        """The tensors of a draft, or None."""
        return self.drafts.get(block)

    def save_draft(self, block: int, tensors: dict[str, Tensor]) -> str:
        """Keep a draft. Returns the SHA-256 of its file form."""
        self.drafts[block] = tensors
        return hashlib.sha256(to_bytes(tensors)).hexdigest()


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The safetensors file of a block or a draft; `safetensors.torch.load` reads it."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


@dataclass(frozen=True)
class BlockArtifact:
    """One quantized block.

    weights: integer weight of each linear.  parameters: all other parameters by name (norms and biases with the balance
    folded in, and weights that are not quantized).  learned: `balance.<pair>`, `clip_low.<linear>`,
    `clip_high.<linear>`, `compensation_out`, `compensation_in`.  act_clips: learned () float32 factor on the range of
    each token that enters a linear.  hadamards: channels per block of the Hadamard transform in front of a linear; the
    columns of its weight are transformed accordingly.
    """

    weights: Mapping[str, QuantizedWeight]
    parameters: Mapping[str, Tensor]
    learned: Mapping[str, Tensor]
    act_clips: Mapping[str, Tensor] = field(default_factory=dict)
    hadamards: Mapping[str, int] = field(default_factory=dict)

    def to_tensors(self, precisions: Mapping[str, Precision]) -> dict[str, Tensor]:
        """A flat dictionary for a safetensors file.

        Codes become bit planes, so the file has the quantized size.
        precisions: of each linear in `weights`.
        """
        tensors = {f"parameters.{name}": t.contiguous() for name, t in self.parameters.items()}
        tensors |= {f"learned.{name}": t.contiguous() for name, t in self.learned.items()}
        tensors |= {f"act_clip.{name}": t.contiguous() for name, t in self.act_clips.items()}
        tensors |= {f"hadamard.{name}": torch.tensor(block) for name, block in self.hadamards.items()}
        for name, weight in self.weights.items():
            stored = stored_tensors(weight, precisions[name].stored_bits)
            tensors |= {f"weights.{name}.{part}": tensor for part, tensor in stored.items()}
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "BlockArtifact":
        """The inverse of `to_tensors`, bit for bit."""
        weights = {}
        for key in tensors:
            if not key.endswith(".planes"):
                continue
            prefix = key.removesuffix("planes")
            weights[prefix.removeprefix("weights.").removesuffix(".")] = weight_of(_with_prefix(tensors, prefix))
        parameters, learned = _with_prefix(tensors, "parameters."), _with_prefix(tensors, "learned.")
        hadamards = {name: int(block) for name, block in _with_prefix(tensors, "hadamard.").items()}
        return cls(weights, parameters, learned, _with_prefix(tensors, "act_clip."), hadamards)


def padded_columns(k: int) -> int:
    """Columns of a stored bit plane of k columns: whole machine words."""
    return -(-k // _WORD) * _WORD


def stored_tensors(weight: QuantizedWeight, bits: int) -> dict[str, Tensor]:
    """The stored tensors of a quantized weight with `bits` bit planes: planes, scale, zero, columns.

    planes: (rows, bits, bytes) uint8.  scale: (rows, groups) float32.  zero: (rows, groups) uint8.
    columns: (3,) int64: columns, group size, spacing.
    """
    rows, k = weight.codes.shape
    codes = np.zeros((rows, padded_columns(k)), dtype=np.uint16)
    codes[:, :k] = weight.codes.cpu().numpy()
    planes = pack_bit_planes(codes if bits > 8 else codes.astype(np.uint8), bits)
    return {
        "planes": torch.from_numpy(planes.view(np.uint8)),
        "scale": weight.scale,
        "zero": weight.zero.to(torch.uint8),
        "columns": torch.tensor([k, weight.group_size, weight.spacing]),
    }


def weight_of(stored: Mapping[str, Tensor]) -> QuantizedWeight:
    """The inverse of `stored_tensors`, bit for bit."""
    k, group_size, *spacing = stored["columns"].tolist()  # runs of the first versions have no spacing
    planes = np.ascontiguousarray(stored["planes"].numpy()).view(np.uint64)
    codes = unpack_bit_planes(planes, k).astype(np.int16)
    return QuantizedWeight(
        torch.from_numpy(codes), stored["scale"], stored["zero"].to(torch.int16), group_size, *spacing
    )


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
