"""Open a GGUF file, a folder or a hub id as an import of a base model, after checking it."""

from pathlib import Path

from abq_core.imports.base_layout import BaseLayout, base_layout
from abq_core.imports.gguf_file import open_gguf
from abq_core.imports.packed_folder import open_folder
from abq_core.imports.source import ImportSource
from abq_core.models import hub
from abq_core.models.building import checked_files
from abq_core.models.errors import ModelNotFoundError
from abq_core.models.files import check_config
from abq_core.models.gguf.folder import SUFFIX, is_gguf
from abq_core.models.reference import BUILTIN, local_folder
from abq_core.models.tokenizer import load_tokenizer


def open_import(ref: str, base: str, layout: BaseLayout | None = None) -> ImportSource:
    """Open `ref`, which another program made from the model `base`. Headers and configs are checked, weights not read.

    ref: a .gguf file, a folder with a quantized model, or a hub id of one.  layout: of `base`, if it is known.
    Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    path = import_path(ref)
    layout = layout or base_layout(base)
    return open_gguf(path, layout, _tokens(base)) if path.is_file() else open_folder(path, layout)


def import_path(ref: str) -> Path:
    """The file or folder that a reference names; that of a hub id is downloaded.

    Raises ModelNotFoundError, ModelError.
    """
    path = _local(ref)
    if path is None:
        path = hub.import_snapshot(ref)
    if not path.is_dir() and not is_gguf(path):
        raise ModelNotFoundError(f"'{ref[:200]}' is neither a {SUFFIX} file nor a folder with a model. Check the path.")
    return path


def pinned_import(ref: str) -> str:
    """The reference with the commit of a hub id, which is downloaded. Raises ModelNotFoundError, ModelError."""
    return ref if _local(ref) is not None else hub.pinned_import(ref)


def _local(ref: str) -> Path | None:
    """The existing file or folder that `ref` names."""
    try:
        path = Path(ref).expanduser()
        return path if ref.strip() and ref != BUILTIN and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # name too long, no home directory, a null byte: not a path
        return None


def _tokens(base: str) -> list[str | None]:
    """The text of each token id of a model, None for an id without one."""
    folder = local_folder(base)
    if folder is not None:
        check_config(folder)
    with checked_files(base, folder or hub.hub_folder(base, weights=False), weights=False) as links:
        numbers = load_tokenizer(links).get_vocab()
    tokens: list[str | None] = [None] * (max(numbers.values(), default=-1) + 1)
    for token, number in numbers.items():
        tokens[number] = token
    return tokens
