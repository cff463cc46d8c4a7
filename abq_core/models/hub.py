"""Download models from the hub; the config is checked before weights are fetched."""

import re
from pathlib import Path

from abq_core.models.errors import ModelError, ModelNotFoundError
from abq_core.models.files import (
    CONFIG,
    OLDER_QUANTIZATION,
    SETTINGS,
    TOKENIZER_DATA,
    WEIGHTS,
    WEIGHTS_INDEX,
    check_settings,
    quantized_config,
)
from abq_core.models.gguf.folder import converted_folder, is_gguf

_HUB_ID = re.compile(
    r"(?P<repo>\w[\w.-]*(/\w[\w.-]*)?)(/(?P<file>(\w[\w.-]*/)*\w[\w.-]*\.gguf))?(@(?P<revision>\w[\w./-]*))?"
)

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(ref: str) -> bool:
    """True for text of the form "name", "org/name", "org/name/file.gguf" or one of them with "@revision"."""
    return _HUB_ID.fullmatch(ref) is not None


def hub_repository(ref: str) -> str | None:
    """The repository "org/name" of a hub id, without its file and revision; None for other text."""
    match = _HUB_ID.fullmatch(ref)
    return None if match is None or "/" not in match["repo"] else match["repo"]


def hub_folder(ref: str, weights: bool) -> Path:
    """The local snapshot of "org/name[@revision]", or the folder made from "org/name/file.gguf[@revision]".

    Without `weights`, only its checked JSON files are downloaded; a GGUF file is always downloaded whole.

    If the hub cannot be reached, an earlier download is used. Raises ModelNotFoundError, ModelError, UnsafeModelError.
    """
    match = _HUB_ID.fullmatch(ref)
    if match is None:
        raise ModelNotFoundError(
            f"{ref[:120]!r} is neither a folder nor a hub id such as org/name, org/name@revision or "
            "org/name/file.gguf, nor a .gguf file. Use 'builtin' for the built-in model."
        )
    if match["file"]:
        folder = converted_folder(_gguf_snapshot(ref, match) / match["file"])
        check_settings(folder)
        return folder
    folder = _download(ref, match["repo"], match["revision"], [*SETTINGS, *TOKENIZER_DATA, WEIGHTS_INDEX])
    check_settings(folder)
    if weights:
        _download(ref, match["repo"], match["revision"], ["model.safetensors", "model-*.safetensors"])
    return folder


def pinned_hub_id(ref: str) -> str:
    """A hub id with its current commit, "org/name@<40 hex digits>". Raises as hub_folder does.

    A snapshot's folder is named after its commit, so this works offline once the config was downloaded.
    """
    match = _HUB_ID.fullmatch(ref)
    if match is not None and match["revision"] and _COMMIT.fullmatch(match["revision"]):
        return ref
    folder = _gguf_snapshot(ref, match) if match is not None and match["file"] else hub_folder(ref, weights=False)
    commit = folder.name
    if match is None or not _COMMIT.fullmatch(commit):
        raise ModelError(f"The commit of '{ref}' is unknown, so the run could not be repeated. Write org/name@commit.")
    return f"{ref.partition('@')[0]}@{commit}"


def import_snapshot(ref: str) -> Path:
    """The .gguf file or the snapshot with a quantized model that a hub id names: its configs and safetensors files.

    The configs are checked before the weights are fetched. Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    match = _HUB_ID.fullmatch(ref)
    if match is None:
        raise ModelNotFoundError(
            f"{ref[:120]!r} is neither a .gguf file, nor a folder, nor a hub id such as org/name, org/name@revision or "
            "org/name/file.gguf. Check the path."
        )
    if match["file"]:
        return _gguf_snapshot(ref, match) / match["file"]
    folder = _download(ref, match["repo"], match["revision"], [CONFIG, OLDER_QUANTIZATION, WEIGHTS_INDEX])
    quantized_config(folder)
    _download(ref, match["repo"], match["revision"], [WEIGHTS, "model-*.safetensors"])
    return folder


def pinned_import(ref: str) -> str:
    """The hub id of an import with its commit; its files are downloaded. Raises ModelNotFoundError, ModelError."""
    path, match = import_snapshot(ref), _HUB_ID.fullmatch(ref)
    assert match is not None
    if match["revision"] and _COMMIT.fullmatch(match["revision"]):
        return ref
    file = match["file"]
    commit = (path if file is None else path.parents[file.count("/")]).name
    if not _COMMIT.fullmatch(commit):
        raise ModelError(f"The commit of '{ref}' is unknown, so the run could not be repeated. Write org/name@commit.")
    return f"{ref.partition('@')[0]}@{commit}"


def _gguf_snapshot(ref: str, match: re.Match[str]) -> Path:
    """The local snapshot of a repository with the GGUF file that a hub id names."""
    folder = _download(ref, match["repo"], match["revision"], [match["file"]])
    if not is_gguf(folder / match["file"]):
        raise ModelNotFoundError(f"'{match['repo']}' has no file '{match['file']}'. Check the spelling.")
    return folder


def _download(ref: str, repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"'{ref}' is gated: accept its licence on its page, run 'hf auth login' and 'hf download {repo}', and try "
            "again. Jobs run without your token and use the downloaded files."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFoundError(
            f"'{ref}' is neither a folder on this machine nor a model or revision on the hub. Check the spelling, or "
            "use 'builtin'."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelNotFoundError(
            f"'{ref}' is not a folder on this machine, and the hub cannot be reached ({type(error).__name__}). "
            "Offline, use 'builtin', a folder with a model, or a hub id that was downloaded before."
        ) from error
