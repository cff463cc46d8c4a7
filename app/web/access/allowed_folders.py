"""The folders whose texts and models the page may read. The command line has no such limit."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from abq_core.text.sources import is_name
from app.services import ServiceError
from app.services.registry import BUILTIN
from app.services.sources import Sources

TEXTS, MODELS = "texts", "models"  # in the data folder: the page may always read them


class ForbiddenPathError(ServiceError):
    """A path outside the allowed folders."""


class AllowedFolders(Sources):
    """Refuses paths outside some folders.

    Names pass: "builtin", hub data sets, hub ids such as org/name.

    A refusal does not reveal whether a path exists: files outside the folders are never accessed. Symlinks are resolved
    first, so a link cannot lead outside a folder.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))

    def check_model(self, ref: str) -> None:
        """Raises ForbiddenPathError."""
        from abq_core.models.hub import is_hub_id
        from abq_core.models.reference import local_folder

        if ref == BUILTIN or self.contains(ref):
            return
        if not is_hub_id(ref) or local_folder(ref) is not None:  # a folder takes precedence over a hub id
            self._refuse(ref)

    def check_text(self, source: str) -> None:
        """Raises ForbiddenPathError."""
        if not is_name(source) and not self.contains(source):
            self._refuse(source)

    def contains(self, path: str) -> bool:
        """True if the path, as written and with its symlinks resolved, is inside one of the folders."""
        try:
            written = Path(path).expanduser().absolute()
            normalized = Path(os.path.normpath(written))
            return self._holds(normalized) and self._holds(written.resolve())
        except (OSError, RuntimeError, ValueError):  # no such home directory, a loop of links, a null byte
            return False

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self.folders)

    def _refuse(self, path: str) -> None:
        folders = ", ".join(str(folder) for folder in self.folders)
        raise ForbiddenPathError(
            f"{path[:200]!r} is outside the folders that this page reads texts and models from ({folders}). Copy it to "
            "one of them, or start the page with --allow and its folder."
        )


def page_folders(data_dir: Path, only_this_account: bool, allow: Sequence[Path] = ()) -> AllowedFolders:
    """The folders of a page, among them `texts` and `models` in the data folder.

    These two are created if they are missing.

    only_this_account: the page listens on loopback without a login, so its visitors count as the account that started
    it; they may also read its home directory, the current folder and the data folder.  allow: further folders.
    """
    shared = [data_dir / TEXTS, data_dir / MODELS]
    for folder in shared:
        folder.mkdir(parents=True, exist_ok=True)
    if not only_this_account:
        return AllowedFolders([*shared, *allow])
    # A service can have / as its home or current folder, which would allow every path.
    local = [folder for folder in (Path.home(), Path.cwd(), data_dir) if folder != Path(folder.anchor)]
    return AllowedFolders([*local, *shared, *allow])
