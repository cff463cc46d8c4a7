"""Temporary folders of model files, which a killed process leaves behind and the next one removes."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_FOLDER_PREFIX = "abq-model-"
_YOUNG_SECONDS = 60.0


@contextmanager
def temporary_folder() -> Iterator[str]:
    """A temporary folder that is removed at the end, or at the next start if this process is killed."""
    _remove_abandoned_folders()
    with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as name:
        descriptor = _locked(Path(name))
        try:
            yield name
        finally:
            if descriptor is not None:
                os.close(descriptor)


@cache
def _remove_abandoned_folders() -> None:
    """Remove link folders of killed processes, once per process. A live process holds the lock of its folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            if time.time() - found.st_mtime < _YOUNG_SECONDS:  # it may not be locked yet
                continue
            descriptor = _locked(folder)
        except (OSError, AttributeError):  # removed meanwhile, or Windows
            continue
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Lock a folder. Returns the descriptor that holds the lock, or None if another process does."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
