"""Paths in specs: absolute, so that a worker with another working directory finds them."""

from pathlib import Path

from abq_core.text.sources import NAMES


def local_path(text: str) -> str:
    """The absolute path of an existing file or folder.

    Names of texts and models are returned unchanged.
    """
    path = Path(text).expanduser()
    return str(path.resolve()) if text not in NAMES and path.exists() else text
