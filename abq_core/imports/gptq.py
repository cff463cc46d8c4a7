"""Linears of GPTQ and AutoRound folders: integer codes along the input dimension, with scales and zero points.

Layout: AutoGPTQ's `QuantLinear` (qweight, qzeros, scales, g_idx). AutoRound's formats auto_gptq and gptqmodel are the
same tensors.
"""

from dataclasses import dataclass
from typing import Any

import torch

from abq_core.imports.base_layout import Shape
from abq_core.imports.grouping import FolderError, number_in, spread
from abq_core.imports.packed_integers import unpack, words_for
from abq_core.imports.safetensors_files import SafetensorsFiles
from abq_core.imports.source import StoredTensor

PARTS = ("qweight", "qzeros", "scales", "g_idx")
_BITS = (2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Gptq:
    """How one folder stores its linears.

    group_size: weights per scale, None for one per row.  zero_offset: added to stored zero points; 1 in the first
    version of the format, which stores them reduced by 1.
    """

    bits: int
    group_size: int | None
    zero_offset: int

    @classmethod
    def read(cls, config: dict[str, Any]) -> "Gptq":
        """From `quantization_config` of a GPTQ folder. Raises FolderError."""
        if config.get("dynamic"):
            raise FolderError("has 'dynamic', one setting per linear, which is not supported")
        form = config.get("checkpoint_format", config.get("format", "gptq"))
        if form not in ("gptq", "gptq_v2"):
            raise FolderError(f"has the GPTQ format {str(form)[:40]!r}; gptq and gptq_v2 are supported")
        return cls._of(config, 1 if form == "gptq" else 0)

    @classmethod
    def read_auto_round(cls, config: dict[str, Any]) -> "Gptq":
        """From `quantization_config` of an AutoRound folder. Raises FolderError."""
        form = str(config.get("packing_format", "auto_round:auto_gptq"))
        offsets = {"auto_round:auto_gptq": 1, "auto_round:gptqmodel": 0, "auto_round": 0}
        if form not in offsets:
            raise FolderError(
                f"has the AutoRound format {form[:40]!r}; {', '.join(offsets)} are supported: export it again as one "
                "of them, or as GGUF"
            )
        if config.get("data_type", "int") != "int":
            raise FolderError(f"has the data type {str(config['data_type'])[:40]!r}; int is supported")
        if number_in(config, "act_bits", 1, 32, 16) < 16:
            raise FolderError("quantizes activations, which is not supported for AutoRound")
        return cls._of(config, offsets[form])

    @classmethod
    def _of(cls, config: dict[str, Any], zero_offset: int) -> "Gptq":
        bits = number_in(config, "bits", 1, 8)
        if bits not in _BITS:
            raise FolderError(f"has {bits} bits; {', '.join(map(str, _BITS))} are supported")
        size = number_in(config, "group_size", -1, 1 << 20, -1)
        return cls(bits, size if size > 0 else None, zero_offset)

    def check(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> None:
        """Compare the tensors of a linear with the shape (rows, k) of its weight. Raises FolderError."""
        rows, k = shape
        found = {part: files.entries.get(f"{prefix}.{part}") for part in PARTS}
        weight, scales, zeros, groups = found["qweight"], found["scales"], found["qzeros"], found["g_idx"]
        bits = self._bits(files, prefix, shape)
        if scales is None or len(scales.shape) != 2 or scales.shape[1] != rows or not scales.dtype.is_floating_point:
            raise FolderError(f"has no usable '{prefix}.scales' for a weight of shape {shape}")
        count = scales.shape[0]
        if zeros is not None and (zeros.shape != (count, words_for(rows, bits)) or zeros.dtype != torch.int32):
            raise FolderError(f"has '{prefix}.qzeros' of shape {zeros.shape}, which does not fit its scales")
        if groups is not None and (groups.shape != (k,) or groups.dtype not in (torch.int32, torch.int64)):
            raise FolderError(f"has '{prefix}.g_idx' of shape {groups.shape} for {k:,} inputs")
        if groups is None:
            spread(count, k, self.group_size, prefix)
        assert weight is not None

    def decode(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> StoredTensor:
        """The weight (rows, k) of a linear that `check` accepted. Raises FolderError for an impossible group."""
        rows, k = shape
        bits = self._bits(files, prefix, shape)
        codes = unpack(files.read(f"{prefix}.qweight").T, bits, k)
        scales = files.read(f"{prefix}.scales").float()
        if f"{prefix}.qzeros" in files.entries:
            zeros = (unpack(files.read(f"{prefix}.qzeros"), bits, rows) + self.zero_offset) & ((1 << bits) - 1)
        else:
            zeros = torch.full(scales.shape, 1 << (bits - 1), dtype=torch.int16)
        if f"{prefix}.g_idx" in files.entries:
            group = files.read(f"{prefix}.g_idx").long()
            if int(group.min()) < 0 or int(group.max()) >= len(scales):
                raise FolderError(f"has '{prefix}.g_idx' with groups beyond its {len(scales):,} scales")
        else:
            group = spread(len(scales), k, self.group_size, prefix)
        levels = codes - zeros.T[:, group]
        return StoredTensor(levels.float() * scales.T[:, group], levels)

    def _bits(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> int:
        """The bits of one linear: AutoRound may give some of them more than the config's. Raises FolderError."""
        rows, k = shape
        entry = files.entries[f"{prefix}.qweight"]
        for bits in (self.bits, *_BITS):
            if entry.shape == (words_for(k, bits), rows) and entry.dtype == torch.int32:
                return bits
        raise FolderError(f"has '{prefix}.qweight' of shape {entry.shape} for a weight of shape {shape}")
