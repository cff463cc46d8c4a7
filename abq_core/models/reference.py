"""Model references ("builtin", a folder, a .gguf file, a hub id): files, pinned form, fingerprint."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from abq_core.models import hub
from abq_core.models.files import BUILTIN_FOLDER, CONFIG, chat_template, check_config, check_settings, weight_files
from abq_core.models.gguf.folder import SUFFIX, converted_folder, header_in, is_gguf
from abq_core.models.gguf.weights import StoredWeights
from abq_core.models.gguf.weights import stored_weights as weights_in

__all__ = [
    "BUILTIN",
    "BUILTIN_FOLDER",
    "files_sha256",
    "fingerprint",
    "has_chat_template",
    "is_local",
    "local_folder",
    "model_folder",
    "pinned",
    "stored_weights",
]

BUILTIN = "builtin"


def model_folder(ref: str) -> Path:
    """The folder that holds the files of `ref`; a hub id is downloaded first.

    Raises ModelNotFoundError, UnsafeModelError, ModelError.
    """
    return local_folder(ref) or hub.hub_folder(ref, weights=True)


def has_chat_template(ref: str) -> bool:
    """Whether the model has a chat template. Weights are neither read nor downloaded.

    Raises ModelNotFoundError, UnsafeModelError, ModelError.
    """
    folder = local_folder(ref) or hub.hub_folder(ref, weights=False)
    check_settings(folder)
    return chat_template(folder) is not None


def local_folder(ref: str) -> Path | None:
    """The local folder that `ref` names; None for a hub id or a path that does not exist.

    That of a .gguf file is made of its header. Raises UnsafeModelError, ModelError if the header is refused.
    """
    path = _local_path(ref)
    return path if path is None or path.is_dir() else converted_folder(path)


def is_local(ref: str) -> bool:
    """True if `ref` names a folder or a .gguf file of this machine. Neither is read."""
    return _local_path(ref) is not None


def _local_path(ref: str) -> Path | None:
    """The existing folder or .gguf file that `ref` names."""
    if ref == BUILTIN:
        return BUILTIN_FOLDER
    try:
        path = Path(ref).expanduser()
        return path if path.is_dir() or is_gguf(path) else None
    except (OSError, RuntimeError, ValueError):  # name too long, no home directory, a null byte: not a folder
        return None


def pinned(ref: str) -> str:
    """Fix the revision: a hub id gets its current commit, others are unchanged.

    Raises ModelError.
    """
    return ref if is_local(ref) else hub.pinned_hub_id(ref)


def fingerprint(ref: str) -> str:
    """sha256 (hex) over the names and contents of a model's config and weights, or of a GGUF file's contents.

    Equal files have equal fingerprints; a GGUF file may have another name.

    Raises ModelNotFoundError, UnsafeModelError, ModelError.
    """
    folder = model_folder(ref)
    check_config(folder)
    weights = weight_files(folder)
    config = [] if weights[0].suffix == SUFFIX else [folder / CONFIG]  # that of a GGUF file is made from it
    return files_sha256([*config, *weights])


def files_sha256(files: Iterable[Path]) -> str:
    """sha256 (hex) over the names and contents of some files."""
    digest = hashlib.sha256()
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.name}\0{_sha256(file, stat.st_size, stat.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


def stored_weights(ref: str) -> StoredWeights | None:
    """How a GGUF file stores the linears of its blocks; None for a model that is not a GGUF file.

    Raises ModelNotFoundError, UnsafeModelError, ModelError.
    """
    header = header_in(model_folder(ref)) if SUFFIX in ref.lower() else None
    return None if header is None else weights_in(header)


@lru_cache(maxsize=256)
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    """The file's sha256.

    Size and modification time are part of the cache key, so a changed file is read again.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
