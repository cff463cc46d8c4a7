"""Files that the kernels keep between processes: cubins, plans, timed choices. Losing one costs time, nothing else."""

import os
import tempfile
from pathlib import Path


def cache_folder(engine: str) -> Path:
    """Where an engine ("cpu" or "cuda") keeps its files: ABQ_KERNEL_CACHE, or its part of the user's cache folder."""
    chosen = os.environ.get("ABQ_KERNEL_CACHE")
    if chosen:
        return Path(chosen)
    try:
        import platformdirs
    except ImportError:  # a GPU machine may have torch and CuPy and little else
        return Path.home() / ".cache" / "abq-explorer" / engine
    return Path(platformdirs.user_cache_dir("abq-explorer")) / engine


def write_atomically(path: Path, content: bytes) -> None:
    """All of the file or nothing of it. A folder that cannot be written is no error: the next process compiles anew."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError:
        return
