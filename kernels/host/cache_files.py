"""Cache files that the kernels keep between processes: cubins, plans and autotuned choices.

All can be rebuilt.
"""

import os
import tempfile
from pathlib import Path


def cache_folder(engine: str) -> Path:
    """Cache folder of an engine ("cpu" or "cuda").

    ABQ_KERNEL_CACHE, or a subfolder of the user's cache folder.
    """
    chosen = os.environ.get("ABQ_KERNEL_CACHE")
    if chosen:
        return Path(chosen)
    try:
        import platformdirs
    except ImportError:  # GPU benchmarks run with little more than torch and CuPy
        return Path.home() / ".cache" / "abq-explorer" / engine
    return Path(platformdirs.user_cache_dir("abq-explorer")) / engine


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Failure to write is ignored: the next process rebuilds the content.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            written = Path(file.name)
            try:
                file.write(content)
                file.close()
                written.replace(path)
            except OSError:  # a full disk: nothing may be left on it
                written.unlink(missing_ok=True)
    except OSError:
        return
