"""Write a run in the project's own format, which transformers loads after `import abq_core`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abq_core.calibration.artifacts import stored_tensors
from abq_core.export.model_card import Loading
from abq_core.export.model_files import config_dict, copy_tokenizer, write_json
from abq_core.export.plugin.model_classes import model_class
from abq_core.export.plugin.modules import activation_tensors
from abq_core.export.plugin.names import FORMAT_VERSION, METHOD, VARIANT
from abq_core.export.shards import ShardWriter
from abq_core.export.source import ExportSource
from abq_core.mix import PrecisionMix
from abq_core.models.files import TOKENIZER_CONFIG
from abq_core.quantization.exact_dtype import narrowest
from abq_core.quantization.quantizers import QuantizedWeight

NAME = "transformers"
OnStep = Callable[[int, int], None]


@torch.no_grad()
def write_packed(source: ExportSource, folder: Path, on_step: OnStep) -> int:
    """Write config, tokenizer and bit planes into an empty folder. Returns the bytes of all tensors.

    on_step(done, total): called after each block; may raise to stop. Raises MissingBlockError.
    """
    copy_tokenizer(source.base.ref, folder)
    _name_tokenizer_class(folder / TOKENIZER_CONFIG)
    family = source.config.model_type
    quantization: dict[str, Any] = {
        "quant_method": METHOD,
        "version": FORMAT_VERSION,
        "precision": str(source.precision),
        "tied": source.tied and source.precision.head_bits is not None,
    }
    if isinstance(source.precision, PrecisionMix):
        quantization["mix"] = source.precision.to_dict()
    own: dict[str, Any] = {
        "model_type": METHOD,
        "base_model_type": family,
        "architectures": [model_class(family).__name__],
        "quantization_config": quantization,
    }
    if quantization["tied"]:
        own["tie_word_embeddings"] = False  # the head has no float table of its own that could be tied
    write_json(folder / "config.json", config_dict(source.base) | own)
    writer = ShardWriter(folder, variant=VARIANT)
    for block in range(source.blocks):
        artifact, prefix = source.artifact(block), f"{source.blocks_path}.{block}"
        for name, weight in artifact.weights.items():
            clip = float(artifact.act_clips.get(name, torch.ones(())))
            bits = source.precision.of_linear(block, name).stored_bits
            _add(writer, f"{prefix}.{name}", weight, bits, clip, artifact.hadamards.get(name, 1))
        for name, parameter in artifact.parameters.items():
            writer.add(f"{prefix}.{name}", narrowest(parameter))
        on_step(block + 1, source.blocks)
    _add_tables(source, writer)
    writer.close()
    return writer.bytes


def loading(source: ExportSource, folder: str) -> Loading:
    """How the folder is loaded in transformers."""
    lines = [
        "import abq_core  # registers the format; without it, loading fails",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})",
        f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
    ]
    return Loading("transformers", "python", "\n".join(lines), "pip install abq-explorer")


def _add_tables(source: ExportSource, writer: ShardWriter) -> None:
    embedding, head = source.table_names()
    tables: list[tuple[str, QuantizedWeight | Tensor, int | None]] = [
        (embedding, source.embedding(), source.precision.embedding_bits)
    ]
    if not source.tied:
        tables.append((head, source.head(), source.precision.head_bits))
    for name, table, bits in tables:
        if isinstance(table, QuantizedWeight):
            assert bits is not None
            _add(writer, name, table, bits, 1.0, 1)
        else:
            writer.add(f"{name}.weight", narrowest(table))
    for name, parameter in source.other_parameters():
        writer.add(name, narrowest(parameter))


def _add(writer: ShardWriter, name: str, weight: QuantizedWeight, bits: int, act_clip: float, hadamard: int) -> None:
    for part, tensor in (stored_tensors(weight, bits) | activation_tensors(act_clip, hadamard)).items():
        writer.add(f"{name}.{part}", tensor)


def _name_tokenizer_class(file: Path) -> None:
    """Name a tokenizer class: transformers would choose one by the model type, which it does not know."""
    settings = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if "tokenizer_class" not in settings:
        write_json(file, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
