"""A GGUF file as a model folder: config and tokenizer as JSON files, and a link to the file with the weights."""

import atexit
import dataclasses
import json
import os
import re
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from cachetools import LRUCache

from abq_core.models.errors import ModelError
from abq_core.models.gguf.config import config_of
from abq_core.models.gguf.header import Header, read_header
from abq_core.models.gguf.tokenizer import tokenizer_files
from abq_core.models.temporary_folders import temporary_folder

LINK = "model.gguf"  # in the folder: a link to the file
SUFFIX = ".gguf"

_MAX_CONVERTED = 32  # folders of this process
_Version = tuple[str, int, int, int]  # path, inode, size in bytes, time of the last change


class _Converted(NamedTuple):
    """header: without the fields of the tokenizer, which are large."""

    folder: Path
    header: Header


class _Folders(LRUCache[_Version, _Converted]):
    """Converted files of this process; what leaves it is removed from disk."""

    def popitem(self) -> tuple[_Version, _Converted]:
        version, converted = super().popitem()
        shutil.rmtree(converted.folder.parent, ignore_errors=True)
        return version, converted


_LOCK = threading.Lock()
_folders = _Folders(_MAX_CONVERTED)
_until_exit = ExitStack()
atexit.register(_until_exit.close)


def is_gguf(path: Path) -> bool:
    """True for an existing regular file with the suffix .gguf."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def converted_folder(file: Path) -> Path:
    """The folder of a GGUF file, made once per process and version of the file; it is removed when the process ends.

    Its JSON files are written by this program but their contents come from the file: check them like those of every
    other model. Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    return _converted(file).folder


def header_in(folder: Path) -> Header | None:
    """The checked header of the GGUF file that a folder was made from; None for every other folder."""
    with _LOCK:
        made_here = any(converted.folder == folder for converted in _folders.values())
    return _converted(Path(os.readlink(folder / LINK))).header if made_here else None


def _converted(file: Path) -> _Converted:
    file = file.absolute()
    try:
        found = file.stat()
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror or error}). Check the path.") from error
    version = (str(file), found.st_ino, found.st_size, found.st_mtime_ns)
    with _LOCK:
        converted = _folders.get(version)
        if converted is None:
            converted = _folders[version] = _convert(file)
    return converted


def _convert(file: Path) -> _Converted:
    header = read_header(file)
    config = config_of(header)
    tokenizer, settings = tokenizer_files(header)
    # The name of the file is the folder's name, so that errors about its contents name it.
    folder = _new_parent() / (re.sub(r"[^\w.-]", "_", file.name)[-80:] or LINK)
    folder.mkdir()
    contents: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": _generation(header, config),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / LINK).symlink_to(file)
    fields = {name: value for name, value in header.fields.items() if not name.startswith("tokenizer.")}
    return _Converted(folder, dataclasses.replace(header, fields=fields))


def _generation(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    """The tokens that end a text: the end of the text, and of a turn in a chat where the file names one."""
    ends = [config["eos_token_id"]] if "eos_token_id" in config else []
    if "tokenizer.ggml.eot_token_id" in header.fields:
        ends.append(header.integer("tokenizer.ggml.eot_token_id"))
    bos = {"bos_token_id": config["bos_token_id"]} if "bos_token_id" in config else {}
    return {**bos, "eos_token_id": list(dict.fromkeys(ends))} if ends else bos


def _new_parent() -> Path:
    """A new folder in one that is removed when this process ends."""
    return Path(_until_exit.enter_context(temporary_folder()))
