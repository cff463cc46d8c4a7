"""Write a run as one GGUF file: each linear in the smallest storage type that holds its levels exactly."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abq_core.export.errors import ExportError
from abq_core.export.gguf.blocks import BlockType, exact_type, nearest_blocks
from abq_core.export.gguf.metadata import add_metadata, architecture, rope_factors
from abq_core.export.gguf.tokenizer import add_tokenizer, vocabulary_of
from abq_core.export.model_card import Loading, public_name
from abq_core.export.model_files import end_tokens, licence
from abq_core.export.source import ExportSource
from abq_core.models.gguf.config import ROPE_FACTORS
from abq_core.models.gguf.tensor_names import Layout
from abq_core.models.reference import model_folder
from abq_core.quantization.exact_dtype import narrowest
from abq_core.quantization.quantizers import QuantizedWeight

NAME = "gguf"
FILE = "model.gguf"
OnStep = Callable[[int, int], None]
_LLAMA_CPP_ACTIVATION_BITS = 8
_FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class _Stored(NamedTuple):
    """One tensor of the file. shape: rows first.  make: its bytes, (rows, bytes) or the values of a plain type."""

    name: str
    type: str
    shape: tuple[int, ...]
    size: int
    make: Callable[[], NDArray[Any]]


@dataclass
class _Errors:
    """What re-rounding changed. largest: of the relative errors (root mean square) of the tensors in `names`."""

    names: list[str] = field(default_factory=list)
    largest: float = 0.0


@torch.no_grad()
def write_gguf(source: ExportSource, folder: Path, nearest: bool, on_step: OnStep) -> tuple[list[str], int]:
    """Write `model.gguf` into an empty folder.

    Returns what the format drops, as sentences, and the bytes of all tensors.
    nearest: re-round to Q8_0 what no type holds exactly, instead of refusing it.
    on_step(done, total): called after each block, twice; may raise to stop. Raises ExportError, MissingBlockError.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    config = source.config
    name = architecture(config.model_type)
    layout = Layout(name, config.num_attention_heads, config.num_key_value_heads)
    errors, total, bytes_ = _Errors(), 2 * source.blocks, 0
    writer = GGUFWriter(folder / FILE, name)
    _add_fields(writer, source)
    for done, part in enumerate(_parts(source, layout, nearest, errors)):
        for stored in part:
            bytes_ += stored.size
            kind = GGMLQuantizationType[stored.type]
            writer.add_tensor_info(stored.name, stored.shape, np.dtype(np.float32), stored.size, kind)
        on_step(min(done, source.blocks), total)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, part in enumerate(_parts(source, layout, nearest, _Errors())):
        for stored in part:
            writer.write_tensor_data(stored.make())
        on_step(source.blocks + min(done, source.blocks), total)
    writer.close()
    return _dropped(source, errors), bytes_


def loading(source: ExportSource, folder: str) -> Loading:
    """How the file is served by llama.cpp."""
    return Loading("gguf", "sh", f"llama-server -m {folder}/{FILE}", "")


def _add_fields(writer: Any, source: ExportSource) -> None:
    """Metadata and tokenizer."""
    ref = source.base.ref
    described = {
        "name": f"{public_name(ref)} {source.precision}",
        "description": f"{source.precision} by {source.record['method']}, made with ABQ Explorer",
    }
    if (found := licence(ref)) is not None:
        described["licence"] = found
    add_metadata(writer, source.config, described)
    vocabulary = vocabulary_of(model_folder(ref), source.config.vocab_size)
    add_tokenizer(writer, model_folder(ref), source.base.tokenizer, vocabulary, end_tokens(ref))


def _parts(source: ExportSource, layout: Layout, nearest: bool, errors: _Errors) -> Iterator[list[_Stored]]:
    """The tensors of the file in order: those outside the blocks, then block by block."""
    yield list(_outside(source, layout, nearest, errors))
    for block in range(source.blocks):
        yield list(_block(source, block, layout, nearest, errors))


def _outside(source: ExportSource, layout: Layout, nearest: bool, errors: _Errors) -> Iterator[_Stored]:
    embedding, head = source.table_names()
    yield _table(layout, f"{embedding}.weight", source.embedding(), nearest, errors)
    if not source.tied:
        yield _table(layout, f"{head}.weight", source.head(), nearest, errors)
    for name, parameter in source.other_parameters():
        yield _tensor(layout, name, parameter.float(), nearest, errors)
    if (factors := rope_factors(source.config)) is not None:
        yield _Stored(ROPE_FACTORS, "F32", factors.shape, factors.nbytes, lambda: factors)


def _block(source: ExportSource, block: int, layout: Layout, nearest: bool, errors: _Errors) -> Iterator[_Stored]:
    artifact = source.artifact(block)
    transformed = next((name for name, size in artifact.hadamards.items() if size > 1), None)
    if transformed is not None:
        raise ExportError(
            f"{transformed} of block {block} has a Hadamard transform in front of it, which llama.cpp does not know. "
            "Calibrate with --switch hadamard=false, and also --switch rotation=true if the family supports it "
            "(docs/method.md), or export to compressed-tensors, whose transform_config holds the transform."
        )
    prefix = f"{source.blocks_path}.{block}"
    for name, weight in artifact.weights.items():
        yield _tensor(layout, f"{prefix}.{name}.weight", weight, nearest, errors)
    for name, parameter in artifact.parameters.items():
        yield _tensor(
            layout, f"{prefix}.{name}", parameter if parameter.ndim > 1 else parameter.float(), nearest, errors
        )


def _table(layout: Layout, name: str, weight: QuantizedWeight | Tensor, nearest: bool, errors: _Errors) -> _Stored:
    """An embedding or LM head: its levels always have zero points, so 8 bits of them fit no type."""
    if isinstance(weight, QuantizedWeight) and not nearest and exact_type(weight) is None:
        raise ExportError(
            f"No storage type of GGUF holds the levels of {name} exactly, which has zero points. Round it again with "
            "--nearest, or calibrate with at most 7 bits for embedding and LM head, such as h7."
        )
    return _tensor(layout, name, weight, nearest, errors)


def _tensor(layout: Layout, name: str, weight: QuantizedWeight | Tensor, nearest: bool, errors: _Errors) -> _Stored:
    stored_name = layout.stored_name(name)
    if stored_name is None:
        raise ExportError(f"llama.cpp has no tensor for {name}. Export to compressed-tensors instead.")
    if isinstance(weight, QuantizedWeight):
        return _quantized(layout, stored_name, name, weight, nearest, errors)
    order = layout.stored_rows(stored_name, len(weight))
    values = weight if weight.ndim == 1 else narrowest(weight)
    values = values if order is None else values[torch.from_numpy(order)]
    return _Stored(stored_name, _FLOATS[values.dtype], tuple(values.shape), values.nbytes, lambda: _plain(values))


def _quantized(
    layout: Layout, stored_name: str, name: str, weight: QuantizedWeight, nearest: bool, errors: _Errors
) -> _Stored:
    rows, k = weight.codes.shape
    order = layout.stored_rows(stored_name, rows)
    if order is not None:
        chosen = torch.from_numpy(order)
        weight = QuantizedWeight(
            weight.codes[chosen], weight.scale[chosen], weight.zero[chosen], weight.group_size, weight.spacing
        )
    kind: BlockType | None = exact_type(weight)
    if kind is not None:
        return _Stored(stored_name, kind.name, (rows, k), int(rows * k * kind.bits / 8), lambda: kind.encode(weight))
    if not nearest:
        raise ExportError(
            f"No storage type of GGUF holds the levels of {name} exactly ({k} inputs, levels with zero points up to "
            f"{int(weight.zero.max())}). Calibrate with --switch symmetric=true, or round again with --nearest."
        )
    type_name, blocks, error = nearest_blocks(weight)
    errors.names.append(name)
    errors.largest = max(errors.largest, error)
    return _Stored(stored_name, type_name, (rows, k), blocks.nbytes, lambda: blocks)


def _plain(values: Tensor) -> NDArray[Any]:
    """The bytes of a plain tensor; NumPy has no bfloat16."""
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).contiguous().numpy()


def _dropped(source: ExportSource, errors: _Errors) -> list[str]:
    precision, dropped = source.precision, []
    if precision.quantizes_activations:
        dropped.append(
            f"{round(precision.act_bits, 2):g}-bit activations: llama.cpp rounds them itself, to "
            f"{_LLAMA_CPP_ACTIVATION_BITS} bits in blocks of 32 or 256."
        )
    if precision.kv_bits is not None:
        dropped.append(f"{precision.kv_bits}-bit KV cache: see --cache-type-k and --cache-type-v of llama.cpp.")
    if errors.names:
        dropped.append(
            f"Exact levels of {len(errors.names)} tensors, which were rounded again: relative error at most "
            f"{100 * errors.largest:.2g} %."
        )
    if getattr(source.config, "sliding_window", None):
        dropped.append("Sliding-window attention: llama.cpp reads the whole context.")
    return dropped
