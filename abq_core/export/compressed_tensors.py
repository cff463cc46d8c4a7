"""Write a run as compressed-tensors, the format of vLLM and of transformers with the package of that name.

Every grid of the project is re-expressed without loss: as symmetric integers of few bits (`pack-quantized`), or as
bytes (`int-quantized`): with zero points where those integers would need more than 8 bits, and without where weights
and activations have 8 bits, because vLLM has int8 kernels for these. Activations are rounded at run time, per token.
Format: https://github.com/vllm-project/compressed-tensors.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from abq_core.export.errors import ExportError
from abq_core.export.integers import MOST_BITS, IntegerWeight, symmetric, with_zero_points
from abq_core.export.model_card import Loading
from abq_core.export.model_files import config_dict, copy_tokenizer, write_json
from abq_core.export.shards import ShardWriter
from abq_core.export.source import ExportSource, require_plain_blocks
from abq_core.precision import FULL_BITS
from abq_core.quantization.exact_dtype import narrowest
from abq_core.quantization.quantizers import QuantizedWeight

NAME = "compressed-tensors"
Activations = Literal["run", "symmetric"]
OnStep = Callable[[int, int], None]
_PACKED, _BYTES, _DENSE = "pack-quantized", "int-quantized", "dense"


@dataclass(frozen=True)
class _Scheme:
    """How one group of linears is stored. bits: of a weight, None if it is not quantized.

    group_size: None for one scale per row.  act_bits: None if activations are not quantized.
    zero_points: whether weights have some, which only bytes do.
    """

    format: str
    bits: int | None
    group_size: int | None
    act_bits: int | None
    zero_points: bool = False

    def to_dict(self, targets: list[str], symmetric_activations: bool) -> dict[str, Any]:
        """The config group of compressed-tensors."""
        weights = activations = None
        if self.bits is not None:
            weights = _arguments(self.bits, not self.zero_points, "channel", dynamic=False)
            if self.group_size is not None:
                weights |= {"strategy": "group", "group_size": self.group_size}
        if self.act_bits is not None:
            activations = _arguments(self.act_bits, symmetric_activations, "token", dynamic=True)
        return {
            "targets": targets,
            "weights": weights,
            "input_activations": activations,
            "output_activations": None,
            "format": self.format,
        }


@dataclass
class _Layout:
    """What is known of the linears after the blocks were read.

    bits: needed by all linears of a scheme, so that a runtime can fuse query, key and value.
    """

    schemes: dict[str, _Scheme] = field(default_factory=dict)
    hadamards: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, weight: QuantizedWeight | None, act_bits: int | None) -> None:
        """Choose how a linear is stored. weight: None if it is not quantized."""
        if weight is None:
            if act_bits is not None:
                self.schemes[name] = _Scheme(_DENSE, None, None, act_bits)
            return
        found = symmetric(weight)
        if found.bits <= MOST_BITS:
            self.schemes[name] = _Scheme(_PACKED, found.bits, found.group_size, act_bits)
            return
        bytes_ = with_zero_points(weight)
        if bytes_ is None:
            raise ExportError(
                f"{name} has {int(weight.codes.max()) + 1} levels with zero points of {weight.spacing} positions per "
                f"level, which 8 bits of {NAME} cannot hold. Use fewer bits, or --switch half_zero=false."
            )
        self.schemes[name] = _Scheme(_BYTES, MOST_BITS, bytes_.group_size, act_bits, zero_points=True)

    def share_bits(self, precision_of: Mapping[str, str]) -> None:
        """Give all linears of one precision the most bits that any of them needs; 8 of them are bytes for W8A8."""
        most: dict[tuple[object, ...], int] = defaultdict(int)
        keys = {name: (precision_of[name], s.format, s.group_size) for name, s in self.schemes.items()}
        for name, scheme in self.schemes.items():
            most[keys[name]] = max(most[keys[name]], scheme.bits or 0)
        for name, scheme in self.schemes.items():
            if scheme.bits is not None:
                bits = most[keys[name]]
                whole = (bits, scheme.group_size, scheme.act_bits) == (MOST_BITS, None, MOST_BITS)
                self.schemes[name] = replace(scheme, bits=bits, format=_BYTES if whole else scheme.format)


@torch.no_grad()
def write_compressed_tensors(
    source: ExportSource, folder: Path, activations: Activations, on_step: OnStep
) -> tuple[list[str], int]:
    """Write config, tokenizer and weights into an empty folder.

    Returns what the format drops, as sentences, and the bytes of all tensors.

    activations: "run" rounds them as the run does, with a zero point per token; "symmetric" without, as vLLM requires.
    on_step(done, total): called after each block, twice; may raise to stop. Raises ExportError, MissingBlockError.
    """
    require_plain_blocks(source, NAME)
    copy_tokenizer(source.base.ref, folder)
    layout, total = _Layout(), 2 * source.blocks
    precision_of: dict[str, str] = {}
    clipped = False
    for block in range(source.blocks):
        artifact = source.artifact(block)
        clipped = clipped or any(float(clip) < 1 for clip in artifact.act_clips.values())
        for linear in source.linear_names(block):
            name = f"{source.blocks_path}.{block}.{linear}"
            precision = source.precision.of_linear(block, linear)
            precision_of[name] = str(precision)
            layout.add(name, artifact.weights.get(linear), _bits_or_none(precision.act_bits))
            if artifact.hadamards.get(linear, 1) > 1:
                layout.hadamards[name] = artifact.hadamards[linear]
        on_step(block + 1, total)
    layout.share_bits(precision_of)
    head = _packed_head(source)
    if head is not None:
        layout.schemes[source.table_names()[1]] = head[1]
    writer = ShardWriter(folder)
    for block in range(source.blocks):
        _write_block(source, block, layout.schemes, writer)
        on_step(source.blocks + block + 1, total)
    _write_tables(source, head, writer)
    writer.close()
    quantization = _quantization_config(source, layout, activations == "symmetric")
    write_json(folder / "config.json", config_dict(source.base) | {"quantization_config": quantization})
    return _dropped(source, activations, clipped), writer.bytes


def loading(source: ExportSource, folder: str) -> Loading:
    """How the folder is loaded in transformers."""
    transforms = _has_transforms(source)
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
    ]
    if transforms:
        lines.insert(0, "from compressed_tensors.transform import TransformConfig, apply_transform_config")
        lines += [
            "# transformers ignores the Hadamard transforms of the config: apply them, or the text is wrong",
            "transforms = model.config.to_dict()['quantization_config']['transform_config']",
            "apply_transform_config(model, TransformConfig.model_validate(transforms))",
        ]
    return Loading("transformers", "python", "\n".join(lines), "pip install transformers compressed-tensors")


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack signed integers (rows, k) int16 of `bits` bits densely into (rows, ceil(k * bits / 32)) int32.

    Value i of a row takes bits i * bits .. of the row's little-endian bit stream, with 2^(bits-1) added.
    """
    rows, k = values.shape
    unsigned = (values.numpy() + (1 << (bits - 1))).astype(np.uint8)
    stream = ((unsigned[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1).reshape(rows, k * bits)
    octets = np.packbits(stream, axis=1, bitorder="little")
    words = np.zeros((rows, -(-k * bits // 32) * 4), np.uint8)
    words[:, : octets.shape[1]] = octets
    return torch.from_numpy(words.view("<i4").astype(np.int32))


def _write_block(source: ExportSource, block: int, schemes: Mapping[str, _Scheme], writer: ShardWriter) -> None:
    artifact, prefix = source.artifact(block), f"{source.blocks_path}.{block}"
    for name, weight in artifact.weights.items():
        _write_linear(f"{prefix}.{name}", weight, schemes[f"{prefix}.{name}"], writer)
    for name, parameter in artifact.parameters.items():
        writer.add(f"{prefix}.{name}", narrowest(parameter))


def _write_linear(name: str, weight: QuantizedWeight, scheme: _Scheme, writer: ShardWriter) -> None:
    assert scheme.bits is not None
    integers: IntegerWeight | None = with_zero_points(weight) if scheme.zero_points else symmetric(weight)
    assert integers is not None
    if scheme.format == _PACKED:
        writer.add(f"{name}.weight_packed", pack(integers.values, scheme.bits))
        writer.add(f"{name}.weight_shape", torch.tensor(integers.values.shape))
    else:
        writer.add(f"{name}.weight", integers.values.to(torch.int8))
    if integers.zero is not None:
        writer.add(f"{name}.weight_zero_point", integers.zero.to(torch.int8))
    writer.add(f"{name}.weight_scale", integers.scale)


def _packed_head(source: ExportSource) -> tuple[QuantizedWeight, _Scheme] | None:
    """The LM head and how it is stored, if it is quantized and a table of its own; its input stays in 16 bits."""
    if source.tied or source.precision.head_bits is None:
        return None
    weight, layout, name = source.head(), _Layout(), source.table_names()[1]
    assert isinstance(weight, QuantizedWeight)
    layout.add(name, weight, None)
    return weight, layout.schemes[name]


def _write_tables(source: ExportSource, head: tuple[QuantizedWeight, _Scheme] | None, writer: ShardWriter) -> None:
    embedding_name, head_name = source.table_names()
    writer.add(f"{embedding_name}.weight", _in_16_bits(source.embedding()))
    if head is not None:
        _write_linear(head_name, *head, writer)
    elif not source.tied:
        writer.add(f"{head_name}.weight", _in_16_bits(source.head()))
    for name, parameter in source.other_parameters():
        writer.add(name, narrowest(parameter))


def _in_16_bits(table: QuantizedWeight | Tensor) -> Tensor:
    """A table's values: as they are stored if not quantized, otherwise the rounded ones in float16."""
    return table.dequantize().to(torch.float16) if isinstance(table, QuantizedWeight) else narrowest(table)


def _quantization_config(source: ExportSource, layout: _Layout, symmetric_activations: bool) -> dict[str, Any]:
    by_scheme: dict[_Scheme, list[str]] = defaultdict(list)
    for name, scheme in layout.schemes.items():
        by_scheme[scheme].append(name)
    outer = [name for name in source.outer_linears() if name not in layout.schemes]
    every = {f"{source.blocks_path}.{b}.{name}" for b in range(source.blocks) for name in source.linear_names(b)}
    groups = {}
    for number, (scheme, names) in enumerate(by_scheme.items()):
        targets = ["Linear"] if set(names) == every else _targets(names, every)
        groups[f"group_{number}"] = scheme.to_dict(targets, symmetric_activations)
    formats = {scheme.format for scheme in by_scheme}
    config: dict[str, Any] = {
        "quant_method": NAME,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": outer + sorted(every - set(layout.schemes)),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
    if layout.hadamards:
        config["transform_config"] = {"config_groups": _transforms(layout.hadamards, every)}
    return config


def _transforms(hadamards: Mapping[str, int], every: Iterable[str]) -> dict[str, Any]:
    """One transform per block size, in front of the linears that have it."""
    groups = {}
    for size in sorted(set(hadamards.values())):
        targets = _targets([name for name, block in hadamards.items() if block == size], every)
        groups[f"hadamard_{size}"] = {
            "type": "hadamard",
            "head_dim": size,
            "apply": [{"targets": targets, "location": "input"}],
        }
    return groups


def _has_transforms(source: ExportSource) -> bool:
    return any(size > 1 for size in source.artifact(0).hadamards.values())


def _targets(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """Names of linears; those that all blocks share are one regular expression."""
    chosen = set(names)
    by_kind: dict[str, set[str]] = defaultdict(set)
    for name in every:
        by_kind[_kind(name)].add(name)
    whole = [kind for kind, members in by_kind.items() if members <= chosen]
    single = chosen.difference(*(by_kind[kind] for kind in whole))
    return sorted(f"re:{kind}$" for kind in whole) + sorted(single)


def _kind(name: str) -> str:
    """The regular expression of a linear in any block."""
    return re.sub(r"\\\.\d+\\\.", r"\\.[0-9]+\\.", re.escape(name), count=1)


def _arguments(bits: int, is_symmetric: bool, strategy: str, *, dynamic: bool) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": is_symmetric, "strategy": strategy, "dynamic": dynamic}


def _bits_or_none(bits: int) -> int | None:
    return None if bits == FULL_BITS else bits


def _dropped(source: ExportSource, activations: Activations, clipped: bool) -> list[str]:
    precision, dropped = source.precision, []
    if clipped and precision.quantizes_activations:
        dropped.append("Learned activation clipping: the runtime rounds the whole range of a token.")
    if activations == "symmetric" and precision.quantizes_activations:
        dropped.append("Zero points of activations: rounding is symmetric, as vLLM requires.")
    if precision.kv_bits is not None:
        dropped.append(f"{precision.kv_bits}-bit KV cache: the runtime's own setting applies.")
    tables = [(precision.embedding_bits, "embedding"), (precision.head_bits if source.tied else None, "LM head")]
    if names := [name for bits, name in tables if bits is not None]:
        dropped.append(f"Packed {' and '.join(names)}: the rounded values are stored in 16 bits.")
    return dropped
