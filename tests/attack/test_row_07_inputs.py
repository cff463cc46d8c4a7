"""Row 7: files that a user names are read as regular files, up to a limit: nothing waits and nothing fills memory."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from attack_cases import Commands, assert_sentence

pytestmark = pytest.mark.attack(row=7)

READERS = {
    "timings": ["bench", "import", "PATH"],
    "sweep": ["sweep", "PATH", "--dry-run"],
    "mix": ["calibrate", "builtin", "--precision", "PATH"],
    "text": ["calibrate", "builtin", "--precision", "W4A4", "--data", "PATH"],
    "task": ["eval", "builtin", "--tasks", "PATH"],
    "accounts": ["auth", "list", "--file", "PATH"],
}
SUFFIXES = {"mix": ".json", "text": ".txt", "task": ".yaml"}
MEMORY = 6 << 30  # address space; the libraries alone reserve more than 2 GiB
SECONDS = 300.0  # on a busy machine; the imports take most of it


def hostile(folder: Path, suffix: str) -> dict[str, Path]:
    made = {kind: folder / f"{kind}{suffix}" for kind in ("endless", "fifo", "directory", "huge", "missing")}
    made["endless"].symlink_to("/dev/zero")
    os.mkfifo(made["fifo"])
    made["directory"].mkdir()
    with made["huge"].open("wb") as file:
        file.truncate(40 << 30)  # sparse: takes no space
    return made


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_or_reads_without_end(
    reader: str, abq_many: Commands, tmp_path: Path, tried: Callable[[int], None]
) -> None:
    made = hostile(tmp_path, SUFFIXES.get(reader, ""))
    commands = [[str(path) if word == "PATH" else word for word in READERS[reader]] for path in made.values()]
    for done, path in zip(abq_many(*commands, timeout=SECONDS, memory=MEMORY), made.values(), strict=True):
        assert_sentence(done, "" if path.is_symlink() else path.name)  # a link is named by its target
    tried(len(made))


SWEEPS = {
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nmodels: [*b]\nprecisions: [W4A4]\n",
    "digits": f"models: [builtin]\nprecisions: [W4A4]\nseeds: [{'9' * 5000}]\n",
    "date": "models: [builtin]\nprecisions: [W4A4]\nseq_len: 2026-99-99\n",
    "depth": f"models: {'[' * 5000}",
    "product": f"models: [{'x,' * 9000}x]\nprecisions: [{'W4A4,' * 9000}W4A4]\nseeds: [{'1,' * 9000}1]\n",
}


def test_sweep_files_that_expand_are_refused(abq_many: Commands, tmp_path: Path, tried: Callable[[int], None]) -> None:
    files = [tmp_path / f"{name}.yaml" for name in SWEEPS]
    for file, content in zip(files, SWEEPS.values(), strict=True):
        file.write_text(content)
    commands = [["sweep", str(file), "--dry-run"] for file in files]
    for done, file in zip(abq_many(*commands, timeout=SECONDS, memory=MEMORY), files, strict=True):
        assert_sentence(done, str(file))
    tried(len(files))
