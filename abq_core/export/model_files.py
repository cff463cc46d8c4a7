"""The files of an export that are not weights: config, tokenizer, chat template, licence."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from abq_core.models.files import CONFIG, GENERATION_CONFIG, SETTINGS, TOKENIZER_DATA, check_settings
from abq_core.models.loading import LoadedModel
from abq_core.models.reference import model_folder

_PRIVATE = ("_name_or_path", "name_or_path")  # a folder of this machine
_MOST_README_BYTES = 1 << 20
_LICENCE = re.compile(r"[\w.+-]{1,60}")


def config_dict(model: LoadedModel) -> dict[str, Any]:
    """The config of a model as JSON, in float32 and without a name of this machine."""
    config: dict[str, Any] = model.model.config.to_dict()
    for name in _PRIVATE:
        config.pop(name, None)
    return config | {"architectures": [_public_class(model.model)], "dtype": "float32"}


def _public_class(model: Any) -> str:
    """The name of transformers' own class, which a class of this project may extend."""
    return next(one.__name__ for one in type(model).__mro__ if one.__module__.startswith("transformers."))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file of an export."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def copy_tokenizer(ref: str, folder: Path) -> None:
    """Copy the checked tokenizer, chat template and generation settings of a model. Raises ModelError."""
    source = model_folder(ref)
    check_settings(source)
    for name in (*SETTINGS, *TOKENIZER_DATA):
        if name != CONFIG and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def end_tokens(ref: str) -> list[int]:
    """The ids of the tokens that end a text, by the generation settings of a model; empty if they name none."""
    file = model_folder(ref) / GENERATION_CONFIG
    ends = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.is_file() else None
    return [ends] if isinstance(ends, int) else list(ends or [])


def licence(ref: str) -> str | None:
    """The licence that the README of a model's folder names in its metadata; None without one."""
    readme = model_folder(ref) / "README.md"
    if not readme.is_file() or readme.stat().st_size > _MOST_README_BYTES:
        return None
    start, _, rest = readme.read_text("utf-8", "replace").partition("---\n")
    if start.strip() or "\n---" not in rest:
        return None
    try:
        found = yaml.safe_load(rest.partition("\n---")[0])
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that does not exist
        return None
    name = found.get("license") if isinstance(found, dict) else None
    return name if isinstance(name, str) and _LICENCE.fullmatch(name) else None
