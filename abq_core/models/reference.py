"""Model references ("builtin", a folder, a hub id): files, pinned form, fingerprint."""

import hashlib
from functools import lru_cache
from pathlib import Path

from abq_core.models import hub
from abq_core.models.files import BUILTIN_FOLDER, CONFIG, check_config, weight_files

__all__ = ["BUILTIN", "BUILTIN_FOLDER", "fingerprint", "local_folder", "model_folder", "pinned"]

BUILTIN = "builtin"


def model_folder(ref: str) -> Path:
    """The folder that holds the files of `ref`; a hub id is downloaded first.

    Raises ModelNotFoundError, UnsafeModelError, ModelError.
    """
    return local_folder(ref) or hub.hub_folder(ref, weights=True)


def local_folder(ref: str) -> Path | None:
    """The local folder that `ref` names; None for a hub id or a path that does not exist."""
    if ref == BUILTIN:
        return BUILTIN_FOLDER
    try:
        path = Path(ref).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # name too long, no home directory, a null byte: not a folder
        return None


def pinned(ref: str) -> str:
    """Fix the revision: a hub id gets its current commit, others are unchanged.

    Raises ModelError.
    """
    return ref if local_folder(ref) is not None else hub.pinned_hub_id(ref)


def fingerprint(ref: str) -> str:
    """sha256 (hex) over the names and contents of a model's config and weights.

    Equal files have equal fingerprints.

    Raises ModelNotFoundError, UnsafeModelError, ModelError.
    """
    folder = model_folder(ref)
    check_config(folder)
    digest = hashlib.sha256()
    for file in sorted([folder / CONFIG, *weight_files(folder)]):
        stat = file.stat()
        digest.update(f"{file.name}\0{_sha256(file, stat.st_size, stat.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    """The file's sha256.

    Size and modification time are part of the cache key, so a changed file is read again.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
