"""The folders whose texts and models the page may read. The command line has no such limit."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from cachetools import TTLCache, cached

from abq_core.text.sources import is_name
from app.services import ServiceError
from app.services.registry import BUILTIN
from app.services.sources import Sources
from app.web.access.visitor_texts import mark_used, owner_folder, uploads_folder

TEXTS, MODELS = "texts", "models"  # in the data folder: the page may always read them
MAX_PINNED, PINNED_SECONDS = 256, 600.0  # hub ids whose commits are remembered, and for how long


class ForbiddenPathError(ServiceError):
    """A path outside the allowed folders."""


class AllowedFolders(Sources):
    """Refuses paths outside some folders.

    Names pass: "builtin", hub data sets, hub ids such as org/name.

    A refusal does not reveal whether a path exists: files outside the folders are never accessed. Symlinks are resolved
    first, so a link cannot lead outside a folder.
    """

    def __init__(self, folders: Iterable[Path], uploads: Path | None = None) -> None:
        """uploads: the folder of the texts that visitors added, each for its own account only (`VisitorTexts`)."""
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self._uploads = uploads
        self._pinned, self._pinned_import = (
            cached(TTLCache[str, str](MAX_PINNED, PINNED_SECONDS), lock=threading.Lock())(pin)
            for pin in (_pinned, _pinned_import)
        )

    def model(self, ref: str) -> str:
        """The reference of a model, a hub id with its commit if the current folder is not allowed.

        Elsewhere "org/name" means the folder of that name, if the current folder has one. Whether it has one is not
        revealed: the hub answers in both cases. Raises ForbiddenPathError, ModelError.
        """
        return ref if ref == BUILTIN else self._allowed(ref, self._pinned)

    def imported(self, ref: str) -> str:
        """The reference of an import, as for `model`. Raises ForbiddenPathError, ModelError."""
        return self._allowed(ref, self._pinned_import)

    def check_text(self, source: str, account: str | None = None) -> None:
        """Raises ForbiddenPathError."""
        if is_name(source) or self.contains(source):
            return
        if self._uploads is None or not _is_inside(source, [own := owner_folder(self._uploads, account)], None):
            self._refuse(source)
        mark_used(own / Path(source).name)

    def contains(self, path: str) -> bool:
        """True if the path, as written and with its symlinks resolved, is inside one of the folders."""
        return _is_inside(path, self.folders, self._uploads)

    def _allowed(self, ref: str, pinned: Callable[[str], str]) -> str:
        from abq_core.models.hub import is_hub_id

        if self.contains(ref):
            return ref
        if not is_hub_id(ref):
            self._refuse(ref)
        return pinned(ref)

    def _refuse(self, path: str) -> NoReturn:
        folders = ", ".join(str(folder) for folder in self.folders)
        raise ForbiddenPathError(
            f"{path[:200]!r} is outside the folders that this page reads texts and models from ({folders}). Copy it to "
            "one of them, or start the page with --allow and its folder."
        )


def _pinned(ref: str) -> str:
    from abq_core.models.hub import pinned_hub_id

    return pinned_hub_id(ref)


def _pinned_import(ref: str) -> str:
    from abq_core.models.hub import pinned_import

    return pinned_import(ref)


def _is_inside(path: str, folders: Sequence[Path], without: Path | None) -> bool:
    """True if the path, as written and with its symlinks resolved, is in one of the folders and not in `without`."""

    def holds(place: Path) -> bool:
        excluded = without is not None and place.is_relative_to(without)
        return not excluded and any(place.is_relative_to(folder) for folder in folders)

    try:
        written = Path(path).expanduser().absolute()
        return holds(Path(os.path.normpath(written))) and holds(written.resolve())
    except (OSError, RuntimeError, ValueError):  # no such home directory, a loop of links, a null byte
        return False


def page_folders(data_dir: Path, only_this_account: bool, allow: Sequence[Path] = ()) -> AllowedFolders:
    """The folders of a page, among them `texts` and `models` in the data folder, and each account's own texts.

    These two are created if they are missing.

    only_this_account: the page listens on loopback without a login, so its visitors count as the account that started
    it; they may also read its home directory, the current folder and the data folder.  allow: further folders.
    """
    shared, uploads = [data_dir / TEXTS, data_dir / MODELS], uploads_folder(data_dir)
    for folder in shared:
        folder.mkdir(parents=True, exist_ok=True)
    if not only_this_account:
        return AllowedFolders([*shared, *allow], uploads)
    # A service can have / as its home or current folder, which would allow every path.
    local = [folder for folder in (Path.home(), Path.cwd(), data_dir) if folder != Path(folder.anchor)]
    return AllowedFolders([*local, *shared, *allow], uploads)
