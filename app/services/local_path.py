"""Paths in specs and in stored rows: absolute, so that a process with another working directory finds them."""

from abq_core.text.sources import NAMES
from abq_core.user_files import user_path


def local_path(text: str) -> str:
    """The absolute path of an existing file or folder.

    Names of texts and models are returned unchanged.
    """
    if text in NAMES:
        return text
    path = user_path(text)
    try:
        return str(path.resolve()) if path.exists() else text
    except (OSError, UnicodeEncodeError):  # too long, or not a name of this file system: no such file
        return text
