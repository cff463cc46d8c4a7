"""The files of a model folder, checked before transformers sees them. Leaves building the model to `models.py`.

`trust_remote_code=False` is no boundary by itself: a config can name code, kernels or other repositories under several
keys. So every JSON file is read here first, weights are safetensors only, and their headers are read from the raw
bytes.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abq_core.models.architectures import SUPPORTED_FAMILIES
from abq_core.models.errors import ModelError, ModelNotFoundError, UnsafeModelError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
SETTINGS = (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_DATA = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
_TOKENIZER_FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"))

_CODE_KEYS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_generate",
        "custom_pipelines",
        "experts_implementation",
        "fusion_config",
        "transformers_weights",
        "trust_remote_code",
    }
)
_CODE_PREFIXES = ("_attn_implementation", "_experts_implementation")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.distcp")
_BYTES_OF = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_MAX_SETTINGS_BYTES = 16 << 20
_MAX_TOKENIZER_BYTES = 128 << 20
_MAX_HEADER_BYTES = 2 << 20  # a file of 2,000 tensors has a tenth of it
_MAX_TENSORS = 20_000
_MAX_DIMENSIONS = 8
_MAX_BYTES = 1 << 46  # of one tensor, and values along one side of it
_MAX_BLOCKS = 512
_MAX_EXPERTS = 1024
_MAX_EXPERTS_OF_ALL_BLOCKS = 1 << 16  # each becomes modules of its own, before any weight is there
_MAX_SIZE = 1 << 24
_SUPPORTED = f"Use a model of a supported family: {', '.join(sorted(SUPPORTED_FAMILIES))}."


def check_config(folder: Path) -> dict[str, Any]:
    """Check all files of a model folder that would be opened, and return its config.

    Raises UnsafeModelError for what could run code or exhaust memory (`auto_map`, `_attn_implementation*`,
    `trust_remote_code` at any depth, weights only as pickle, oversized headers), ModelNotFoundError where there is no
    model, ModelError for an unsupported family, malformed JSON or damaged weights.
    """
    config = check_settings(folder)
    check_weights(folder)
    return config


def check_settings(folder: Path) -> dict[str, Any]:
    """`check_config` without the weights: the JSON files only."""
    if not folder.is_dir():
        raise ModelNotFoundError(f"There is no folder '{folder}'. Check the path, or use 'builtin'.")
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(
            f"'{folder}' holds no model: it has no {CONFIG}. Name a folder as save_pretrained writes it, or use "
            "'builtin'."
        )
    for name in SETTINGS:
        if (folder / name).exists():
            _refuse_code(_read_json(folder / name), folder / name)
    for name in TOKENIZER_DATA:
        file = folder / name
        if file.exists() and (not file.is_file() or file.stat().st_size > _MAX_TOKENIZER_BYTES):
            raise UnsafeModelError(f"{file} is no plain file of at most {_MAX_TOKENIZER_BYTES >> 20} MiB.")
    config = _read_json(folder / CONFIG)
    _check_family(config, folder / CONFIG)
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZER_FORMS):
        raise ModelError(
            f"'{folder}' has no tokenizer that can be read: neither tokenizer.json nor vocab.json with merges.txt. "
            "Save it there with transformers' AutoTokenizer and save_pretrained()."
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: one, or the shards that its index names.

    Raises UnsafeModelError where there are only pickled weights or the index leaves the folder, ModelNotFoundError
    where there are none.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        names = _read_json(folder / WEIGHTS_INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelError(
                f"{folder / WEIGHTS_INDEX} has no 'weight_map'. Save the model again with save_pretrained."
            )
        return [_shard(folder, name) for name in sorted({str(name) for name in names.values()})]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UnsafeModelError(
            f"'{folder}' was refused: its weights are only there as '{pickles[0]}', a format that can run code when "
            "it is opened. Convert it where you trust it: load it with transformers and save_pretrained(), which "
            f"writes {WEIGHTS}."
        )
    raise ModelNotFoundError(
        f"'{folder}' has no weights: neither {WEIGHTS} nor {WEIGHTS_INDEX} is there. Other formats are not opened."
    )


def check_weights(folder: Path) -> int:
    """Check the header of every weight file; returns how many floating-point values they hold together."""
    return sum(_check_header(path) for path in weight_files(folder))


def link_files(folder: Path, target: Path, weights: bool = True) -> None:
    """Put links to the checked files of `folder`, and to nothing else, into the empty folder `target`."""
    names = [*SETTINGS, *TOKENIZER_DATA]
    if weights:
        names += [path.name for path in weight_files(folder)]
        names += [] if (folder / WEIGHTS).is_file() else [WEIGHTS_INDEX]
    for name in names:
        if (folder / name).is_file():
            (target / name).symlink_to((folder / name).resolve())


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a plain file of bounded size."""
    if not file.is_file():
        raise UnsafeModelError(f"{file} is not a plain file.")
    if (size := file.stat().st_size) > _MAX_SETTINGS_BYTES:
        raise UnsafeModelError(f"{file} has {size:,} bytes; at most {_MAX_SETTINGS_BYTES:,} are read.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON ({error}). Download the model again, or mend the file.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a JSON {type(content).__name__}, not an object. Download the model again.")
    return content


def _refuse_code(content: dict[str, Any], file: Path) -> None:
    """Refuse keys that name code, at any depth."""
    pending: list[Any] = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for key in value:
                if key in _CODE_KEYS or key.startswith(_CODE_PREFIXES):
                    raise UnsafeModelError(
                        f"{file} was refused: it has '{key}', which can run code that comes with the model or from "
                        f"elsewhere. {_SUPPORTED}"
                    )
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _check_family(config: dict[str, Any], file: Path) -> None:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in SUPPORTED_FAMILIES:
        raise ModelError(f"{file} has model_type {str(family)[:60]!r}, which is not supported. {_SUPPORTED}")
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            raise ModelError(f"{file} has '{key}': the model is quantized already. Use the full-precision original.")
    check_sizes(config, str(file))


def check_sizes(config: Mapping[str, Any], name: str) -> None:
    """Refuse sizes that no model has: building one would take all memory. Raises UnsafeModelError with `name`."""
    experts = 1
    for key, value in config.items():
        if not (key.startswith("num_") or key.endswith(("_size", "_dim")) or key == "max_position_embeddings"):
            continue
        is_experts = key.startswith("num_") and key.endswith("experts")
        limit = _MAX_BLOCKS if key == "num_hidden_layers" else _MAX_EXPERTS if is_experts else _MAX_SIZE
        if isinstance(value, int | float) and not 0 <= value <= limit:
            raise UnsafeModelError(f"{name} has {key} {str(value)[:40]}: it must be between 0 and {limit:,}.")
        if is_experts and isinstance(value, int):
            experts = max(experts, value)
    blocks = config.get("num_hidden_layers")
    if isinstance(blocks, int) and blocks * experts > _MAX_EXPERTS_OF_ALL_BLOCKS:
        raise UnsafeModelError(
            f"{name} has {blocks * experts:,} experts in all its blocks; at most {_MAX_EXPERTS_OF_ALL_BLOCKS:,} are "
            "taken apart."
        )


def _shard(folder: Path, name: str) -> Path:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise UnsafeModelError(
            f"{folder / WEIGHTS_INDEX} names the weight file {name[:80]!r}: only .safetensors files of the same "
            "folder are opened."
        )
    if not (folder / name).is_file():
        raise ModelError(f"'{folder}' is incomplete: {name} is missing. Download the model again.")
    return folder / name


def _check_header(file: Path) -> int:
    """Read a safetensors header from the raw bytes; returns the number of floating-point values in the file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise ModelError(f"{file} is a Git LFS pointer, not the weights. Run 'git lfs pull' in that folder.")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ModelError(f"{file} is no complete safetensors file ({size:,} bytes). Download it again.")
        if length > _MAX_HEADER_BYTES:
            raise UnsafeModelError(f"{file} has a header of {length:,} bytes; at most {_MAX_HEADER_BYTES:,} are read.")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        if len(header) > _MAX_TENSORS:
            raise UnsafeModelError(f"{file} has {len(header):,} tensors; at most {_MAX_TENSORS:,} are read.")
        values, end = 0, 0
        for name, entry in header.items():
            values += _check_tensor(file, name, entry)
            end = max(end, entry["data_offsets"][1])
    except ModelError:
        raise
    except (RecursionError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f"{file} has a header that cannot be read ({error!r}). Download it again.") from error
    if end != size - 8 - length:
        raise ModelError(
            f"{file} is damaged: its header speaks of {end:,} bytes, {size - 8 - length:,} follow. Download it again."
        )
    return values


def _check_tensor(file: Path, name: str, entry: dict[str, Any]) -> int:
    """Floating-point values of one tensor (0 for masks and indices). Raises ModelError for integer weights."""
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < _MAX_BYTES for n in (*shape, *offsets)):
        raise UnsafeModelError(f"{file} has a tensor '{name[:80]}' of a size that no tensor has. Download it again.")
    count = math.prod(shape)
    matrix = len(shape) == 2
    if kind not in _FLOATS and (matrix or kind not in _BYTES_OF):
        raise ModelError(f"{file} holds '{name[:80]}' as {kind}: the model is quantized already. Use the original.")
    if len(offsets) != 2 or count * _BYTES_OF[kind] != offsets[1] - offsets[0]:
        raise ModelError(f"{file} is damaged: '{name[:80]}' of shape {shape} has bytes {offsets}. Download it again.")
    return count if kind in _FLOATS else 0
