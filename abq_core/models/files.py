"""Check the files of a model folder before transformers opens them.

`trust_remote_code=False` is not a trust boundary: a config can name code, kernels or other repositories under several
keys. Every JSON file is therefore checked here first, weights must be safetensors, and their headers are read from the
raw bytes.
"""

import json
from pathlib import Path
from typing import Any

from abq_core.models.architectures import SUPPORTED_FAMILIES
from abq_core.models.checks.config_fields import check_fields, check_generation
from abq_core.models.checks.tokenizer_check import MAX_ADDED_TOKENS, check_tokenizer
from abq_core.models.errors import ModelError, ModelNotFoundError, UnsafeModelError
from abq_core.models.gguf.folder import LINK, SUFFIX, header_in
from abq_core.models.safetensors_header import check_header

BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin" / "model"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
OLDER_QUANTIZATION = "quantize_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SETTINGS = (CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG, "special_tokens_map.json")
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_DATA = (TOKENIZER, "vocab.json", "merges.txt", "added_tokens.json", CHAT_TEMPLATE)
_TOKENIZER_FORMS = ((TOKENIZER,), ("vocab.json", "merges.txt"))

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
_MAX_SETTINGS_BYTES = 16 << 20
_MAX_TOKENIZER_BYTES = 128 << 20
_SUPPORTED = f"Use a model of a supported family: {', '.join(sorted(SUPPORTED_FAMILIES))}."


def check_config(folder: Path) -> dict[str, Any]:
    """Check every file of a model folder that loading opens. Returns the config.

    Raises UnsafeModelError for files that could run code or exhaust memory (`auto_map`, `_attn_implementation*` or
    `trust_remote_code` at any depth, weights only as pickle, oversized headers), ModelNotFoundError if the folder has
    no model, ModelError for an unsupported family, malformed JSON or damaged weights.
    """
    config = check_settings(folder)
    check_weights(folder)
    return config


def check_settings(folder: Path) -> dict[str, Any]:
    """Check the JSON files of a model folder, not its weights. Returns the config.

    Raises as check_config does.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"The folder '{folder}' does not exist. Check the path, or use 'builtin'.")
    if not (folder / CONFIG).is_file():
        files = sorted(path.name for path in folder.glob(f"*{SUFFIX}"))
        raise ModelNotFoundError(
            f"'{folder}' does not contain a model: it has no {CONFIG}. Use a folder written by save_pretrained, or "
            + (f"name one of its files, such as '{folder / files[0]}'." if files else "'builtin'.")
        )
    for name in SETTINGS:
        if (folder / name).exists():
            content = _read_json(folder / name)
            _refuse_code(content, folder / name)
            _refuse_long_lists(content, folder / name)
    for name in TOKENIZER_DATA:
        file = folder / name
        limit = _MAX_TOKENIZER_BYTES if name == TOKENIZER else _MAX_SETTINGS_BYTES
        if file.exists() and (not file.is_file() or file.stat().st_size > limit):
            raise UnsafeModelError(f"{file} is not a regular file of at most {limit >> 20} MiB.")
    config = _read_json(folder / CONFIG)
    _check_family(config, folder / CONFIG)
    if (folder / GENERATION_CONFIG).is_file():
        check_generation(_read_json(folder / GENERATION_CONFIG), str(folder / GENERATION_CONFIG))
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZER_FORMS):
        raise ModelError(
            f"'{folder}' has no tokenizer in a supported format: neither tokenizer.json nor vocab.json with "
            "merges.txt. Save one with transformers' AutoTokenizer and save_pretrained()."
        )
    tokenizer_ids(folder)
    chat_template(folder)
    return config


def quantized_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config of a folder with quantized weights, and its description of the quantization.

    The latter is `quantization_config` of config.json, or quantize_config.json, which early GPTQ programs wrote.
    Nothing else of the folder is read. Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    file, older = folder / CONFIG, folder / OLDER_QUANTIZATION
    if not file.is_file():
        raise ModelNotFoundError(
            f"'{folder}' has no {CONFIG}. Name a folder written by save_pretrained, or a .gguf file."
        )
    config = _read_json(file)
    _refuse_code(config, file)
    found = config.get("quantization_config", config.get("compression_config"))
    if found is None and older.is_file():
        found, file = {"quant_method": "gptq", **_read_json(older)}, older
        _refuse_code(found, file)
    if not isinstance(found, dict) or not found:
        raise ModelError(
            f"{file} describes no quantization, so there is nothing to import. Use the folder as a model instead."
        )
    return config, found


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, as transformers chooses it; None for a model without one.

    That of chat_template.jinja, or else `chat_template` in tokenizer_config.json: a text, or templates with names, of
    which "default" counts. Raises UnsafeModelError, ModelError.
    """
    file = folder / CHAT_TEMPLATE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{file} is not UTF-8 text ({error}). Download it again.") from error
    if not (folder / TOKENIZER_CONFIG).is_file():
        return None
    declared = _read_json(folder / TOKENIZER_CONFIG).get("chat_template")
    if declared is None or isinstance(declared, str):
        return declared
    try:
        templates = {str(one["name"]): one["template"] for one in declared}
    except (TypeError, KeyError):
        templates = {"default": declared}
    if not all(isinstance(template, str) for template in templates.values()):
        raise ModelError(
            f"{folder / TOKENIZER_CONFIG} has a chat_template that is neither a text nor a list of templates with a "
            "name. Correct it, or download the file again."
        )
    return templates.get("default")


def tokenizer_ids(folder: Path) -> int:
    """The number of token ids that tokenizer.json can produce; 0 if the folder has no such file.

    The file is tried in a process with limits. That of the built-in model is part of this package and trusted.
    Raises UnsafeModelError, ModelError.
    """
    file = folder / TOKENIZER
    return check_tokenizer(file) + 1 if file.is_file() and folder != BUILTIN_FOLDER else 0


def weight_files(folder: Path) -> list[Path]:
    """The files with a model's weights: one safetensors file, the shards that its index names, or a GGUF file.

    Raises UnsafeModelError if the weights are only stored as pickles or the index points outside the folder,
    ModelNotFoundError if the folder has no weights, ModelError for a broken index or a missing shard.
    """
    if header_in(folder) is not None:
        return [folder / LINK]
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
            f"'{folder}' was refused: its weights are only stored as '{pickles[0]}', a format that can run code when "
            "it is opened. If you trust the file, convert it: load it with transformers and call save_pretrained(), "
            f"which writes {WEIGHTS}."
        )
    raise ModelNotFoundError(
        f"'{folder}' has no weights: it has neither {WEIGHTS} nor {WEIGHTS_INDEX}. Other formats are not supported."
    )


def check_weights(folder: Path) -> int:
    """Check the header of every weight file.

    Returns the total number of values. Raises ModelError.
    """
    header = header_in(folder)
    if header is not None:
        return sum(tensor.numel for tensor in header.tensors.values())
    return sum(check_header(path) for path in weight_files(folder))


def link_files(folder: Path, target: Path, weights: bool = True) -> None:
    """Link the checked files of `folder`, and only those, into the empty folder `target`.

    The two configs are written there with their known fields only.
    """
    config = _read_json(folder / CONFIG)
    (target / CONFIG).write_text(json.dumps(check_fields(config, str(folder / CONFIG))), encoding="utf-8")
    if (folder / GENERATION_CONFIG).is_file():
        known = check_generation(_read_json(folder / GENERATION_CONFIG), str(folder / GENERATION_CONFIG))
        (target / GENERATION_CONFIG).write_text(json.dumps(known), encoding="utf-8")
    names = [name for name in (*SETTINGS, *TOKENIZER_DATA) if name not in (CONFIG, GENERATION_CONFIG)]
    if weights:
        names += [path.name for path in weight_files(folder)]
        names += [] if (folder / WEIGHTS).is_file() else [WEIGHTS_INDEX]
    for name in names:
        if (folder / name).is_file():
            (target / name).symlink_to((folder / name).resolve())


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a regular file of bounded size."""
    if not file.is_file():
        raise UnsafeModelError(f"{file} is not a regular file.")
    if (size := file.stat().st_size) > _MAX_SETTINGS_BYTES:
        raise UnsafeModelError(f"{file} has {size:,} bytes; the limit is {_MAX_SETTINGS_BYTES:,}.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} is not valid JSON ({error}). Download the model again, or correct the file."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} contains a JSON {type(content).__name__}, not an object. Download the model again.")
    return content


def _refuse_code(content: dict[str, Any], file: Path) -> None:
    """Refuse keys that can name code, at any depth."""
    pending: list[Any] = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for key in value:
                if key in _CODE_KEYS or key.startswith(_CODE_PREFIXES):
                    raise UnsafeModelError(
                        f"{file} was refused: it has '{key}', which can run code from the model's repository or "
                        f"another one. {_SUPPORTED}"
                    )
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _refuse_long_lists(content: dict[str, Any], file: Path) -> None:
    """Refuse lists and objects with more entries than those of any real model, such as special tokens or labels."""
    pending: list[tuple[str, Any]] = list(content.items())
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict | list) and len(value) > MAX_ADDED_TOKENS:
            raise UnsafeModelError(
                f"{file} has a {key[:80]} of {len(value):,} entries; the limit is {MAX_ADDED_TOKENS:,}."
            )
        if isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((key, item) for item in value)


def _check_family(config: dict[str, Any], file: Path) -> None:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in SUPPORTED_FAMILIES:
        raise ModelError(f"{file} has model_type {str(family)[:60]!r}, which is not supported. {_SUPPORTED}")
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            raise ModelError(f"{file} has '{key}': the model is quantized already. Use the full-precision original.")
    check_fields(config, str(file))


def _shard(folder: Path, name: str) -> Path:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise UnsafeModelError(
            f"{folder / WEIGHTS_INDEX} names the weight file {name[:80]!r}: only .safetensors files of the same "
            "folder are supported."
        )
    if not (folder / name).is_file():
        raise ModelError(f"'{folder}' is incomplete: {name} is missing. Download the model again.")
    return folder / name
