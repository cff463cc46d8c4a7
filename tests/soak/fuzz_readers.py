"""Coverage-guided fuzzing of a reader.

`python tests/soak/fuzz_readers.py config|precision FOLDER SECONDS`.
Any exception other than the reader's own error ends the process.
"""

import contextlib
import shutil
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["abq_core.models.files", "abq_core.precision"]):
    from abq_core.models.files import CONFIG, check_settings
    from abq_core.precision import Precision, PrecisionError

from abq_core.models.errors import ModelError
from abq_core.models.reference import BUILTIN_FOLDER

PRECISIONS = ("W2*A8", "W4A4g128", "W6A6kv8", "fp16", "w8a16g32KV4")


def read_config(raw: bytes) -> None:
    Path(CONFIG).write_bytes(raw)
    with contextlib.suppress(ModelError):
        check_settings(Path.cwd())


def read_precision(raw: bytes) -> None:
    text = raw.decode("utf-8", "replace")
    with contextlib.suppress(PrecisionError):
        assert Precision.parse(str(Precision.parse(text))) == Precision.parse(text)


def main() -> None:
    """Fuzz one reader. The seeds are valid inputs; new inputs stay in memory."""
    reader, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    seeds = folder / "seeds"
    seeds.mkdir(parents=True)
    if reader == "config":
        for file in BUILTIN_FOLDER.glob("*.json"):
            shutil.copy(file, folder)
        shutil.copy(BUILTIN_FOLDER / CONFIG, seeds)
    else:
        for number, text in enumerate(PRECISIONS):
            (seeds / str(number)).write_text(text)
    with contextlib.chdir(folder):
        options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-timeout=60", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *options, str(seeds)], read_config if reader == "config" else read_precision)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
