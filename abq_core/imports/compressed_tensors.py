"""Linears of compressed-tensors folders: integer codes or FP8 values by row, with scales and zero points.

Layouts: the compressors pack-quantized, int-quantized, naive-quantized and float-quantized of compressed-tensors 0.20.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abq_core.imports.base_layout import Shape
from abq_core.imports.grouping import FolderError, number_in, spread
from abq_core.imports.packed_integers import unpack, words_for
from abq_core.imports.safetensors_files import SafetensorsFiles
from abq_core.imports.source import ActivationGrid, StoredTensor

PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision", "dense")
_MAX_GROUPS = 256
_PLAIN = {torch.int8: "int", torch.float8_e4m3fn: "float"}  # weights that are not packed


@dataclass(frozen=True)
class Scheme:
    """One config group. kind: "int" or "float".  group_size: None for a scale per row or per tensor.

    activations: how tokens are rounded, None for not at all.
    """

    bits: int
    kind: str
    group_size: int | None
    activations: ActivationGrid | None


@dataclass(frozen=True)
class CompressedTensors:
    """How one folder stores its linears."""

    schemes: tuple[Scheme, ...]

    @classmethod
    def read(cls, config: dict[str, Any]) -> "CompressedTensors":
        """From `quantization_config`. Raises FolderError for everything that would be ignored here."""
        for name in ("transform_config", "kv_cache_scheme"):
            if config.get(name):
                raise FolderError(f"has '{name}', which is not supported")
        sparsity = config.get("sparsity_config")
        if sparsity and (not isinstance(sparsity, Mapping) or sparsity.get("format") not in (None, "dense")):
            raise FolderError("has 'sparsity_config', which is not supported")
        _check_format(config.get("format"))
        groups = config.get("config_groups")
        if not isinstance(groups, Mapping) or not 0 < len(groups) <= _MAX_GROUPS:
            raise FolderError(f"has no 'config_groups', or more than {_MAX_GROUPS}")
        return cls(tuple(dict.fromkeys(_scheme(group) for group in groups.values())))

    def check(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> None:
        """Compare the tensors of a linear with the shape (rows, k) of its weight. Raises FolderError."""
        rows, k = shape
        scheme = self.scheme_of(files, prefix, shape)
        scale = files.entries.get(f"{prefix}.weight_scale")
        if scale is None or not scale.dtype.is_floating_point or scale.size > 8 * rows * k:
            raise FolderError(f"has no usable '{prefix}.weight_scale'")
        groups = _groups(scale.shape, rows, prefix)
        zero = files.entries.get(f"{prefix}.weight_zero_point")
        packed = (words_for(rows, scheme.bits), groups)
        if zero is not None and not (zero.shape == scale.shape or zero.shape == packed):
            raise FolderError(f"has '{prefix}.weight_zero_point' of shape {zero.shape}, which does not fit its scales")
        group = files.entries.get(f"{prefix}.weight_g_idx")
        if group is not None and (group.shape != (k,) or group.dtype not in (torch.int32, torch.int64)):
            raise FolderError(f"has '{prefix}.weight_g_idx' of shape {group.shape} for {k:,} inputs")
        if group is None:
            spread(groups, k, scheme.group_size, prefix)

    def decode(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> StoredTensor:
        """The weight (rows, k) of a linear that `check` accepted. Raises FolderError for an impossible group."""
        rows, k = shape
        scheme = self.scheme_of(files, prefix, shape)
        scale = files.read(f"{prefix}.weight_scale").float()
        groups = _groups(tuple(scale.shape), rows, prefix)
        scale = scale.reshape(-1, groups).expand(rows, groups)
        group = self._group(files, prefix, scheme, groups, k)
        if scheme.kind == "float":
            return StoredTensor(files.read(f"{prefix}.weight").float() * scale[:, group])
        if f"{prefix}.weight_packed" in files.entries:
            levels = unpack(files.read(f"{prefix}.weight_packed"), scheme.bits, k) - (1 << (scheme.bits - 1))
        else:
            levels = files.read(f"{prefix}.weight").to(torch.int16)
        zero = self._zero(files, prefix, scheme.bits, rows, groups)
        if zero is not None:
            levels = levels - zero[:, group]
        return StoredTensor(levels.float() * scale[:, group], levels)

    def scheme_of(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> Scheme:
        """The only config group that fits the tensors of a linear.

        Their shapes decide, not the group's patterns of names, which are regular expressions of the file.
        Raises FolderError if none or several fit.
        """
        rows, k = shape
        packed, plain = files.entries.get(f"{prefix}.weight_packed"), files.entries.get(f"{prefix}.weight")
        if packed is not None:
            fits = [
                one
                for one in self.schemes
                if one.kind == "int" and packed.dtype == torch.int32 and packed.shape == (rows, words_for(k, one.bits))
            ]
        else:
            assert plain is not None
            kind = _PLAIN.get(plain.dtype)
            fits = [one for one in self.schemes if one.kind == kind and plain.shape == shape]
        scale = files.entries.get(f"{prefix}.weight_scale")
        if len(fits) > 1 and scale is not None and len(scale.shape) == 2:
            fits = [one for one in fits if scale.shape[1] == (1 if one.group_size is None else -(-k // one.group_size))]
        if len(fits) != 1:
            raise FolderError(
                f"has {len(fits)} config groups that fit '{prefix[:80]}' of shape {shape}; there must be exactly one"
            )
        return fits[0]

    @staticmethod
    def _group(files: SafetensorsFiles, prefix: str, scheme: Scheme, groups: int, k: int) -> Tensor:
        if f"{prefix}.weight_g_idx" not in files.entries:
            return spread(groups, k, scheme.group_size, prefix)
        group = files.read(f"{prefix}.weight_g_idx").long()
        if int(group.min()) < 0 or int(group.max()) >= groups:
            raise FolderError(f"has '{prefix}.weight_g_idx' with groups beyond its {groups:,} scales")
        return group

    @staticmethod
    def _zero(files: SafetensorsFiles, prefix: str, bits: int, rows: int, groups: int) -> Tensor | None:
        """The zero points (rows, groups) int16, None for a symmetric linear."""
        entry = files.entries.get(f"{prefix}.weight_zero_point")
        if entry is None:
            return None
        zero = files.read(f"{prefix}.weight_zero_point")
        if entry.dtype == torch.int32 and entry.shape == (words_for(rows, bits), groups) and entry.shape[0] != rows:
            return unpack(zero.T, bits, rows).T - (1 << (bits - 1))
        return zero.to(torch.int16).reshape(-1, groups).expand(rows, groups)


def _groups(shape: Shape, rows: int, prefix: str) -> int:
    """Scales per row: of a scale per tensor, per row, or per group of inputs. Raises FolderError."""
    if shape in ((), (1,), (1, 1), (rows,), (rows, 1)):
        return 1
    if len(shape) == 2 and shape[0] == rows and shape[1] > 0:
        return shape[1]
    raise FolderError(f"has '{prefix[:80]}.weight_scale' of shape {shape} for {rows:,} rows")


def _check_format(form: object) -> None:
    if form is not None and form not in _FORMATS:
        raise FolderError(f"has the format {str(form)[:40]!r}; {', '.join(_FORMATS)} are supported")


def _scheme(group: object) -> Scheme:
    """Raises FolderError for a group whose weights or activations are stored in another way."""
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise FolderError("has a config group without 'weights'")
    _check_format(group.get("format"))
    if group.get("output_activations"):
        raise FolderError("quantizes outputs ('output_activations'), which is not supported")
    weights = group["weights"]
    kind, strategy = weights.get("type", "int"), weights.get("strategy", "tensor")
    if kind not in ("int", "float") or strategy not in ("tensor", "channel", "group"):
        raise FolderError(
            f"has weights of type {str(kind)[:20]!r} with the strategy {str(strategy)[:20]!r}; int and float with "
            "tensor, channel and group are supported"
        )
    bits = number_in(weights, "num_bits", 1, 8)
    if kind == "float" and bits != 8:
        raise FolderError(f"has floats of {bits} bits; 8 are supported")
    size = number_in(weights, "group_size", -1, 1 << 20, -1) if strategy == "group" else -1
    return Scheme(bits, kind, size if size > 0 else None, _activations(group.get("input_activations")))


def _activations(activations: object) -> ActivationGrid | None:
    """How dynamic integer activations are rounded per token. Raises FolderError for other ones."""
    if activations is None:
        return None
    if not isinstance(activations, Mapping):
        raise FolderError("has 'input_activations' that are not an object")
    wanted = {"type": "int", "strategy": "token", "dynamic": True}
    defaults = {"type": "int"}
    for name, value in wanted.items():
        found = activations.get(name, defaults.get(name))
        if found != value:
            raise FolderError(f"has input activations with {name} {str(found)[:40]!r}; {value!r} is supported")
    symmetric = activations.get("symmetric", True)
    if not isinstance(symmetric, bool):
        raise FolderError(f"has input activations with symmetric {str(symmetric)[:40]!r}: it must be true or false")
    return ActivationGrid(number_in(activations, "num_bits", 2, 8), symmetric)
