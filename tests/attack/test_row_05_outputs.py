"""Row 5: outputs go to new regular files, or with --force to existing ones; nothing else is replaced."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from attack_cases import Commands, FinishedRun, assert_sentence

pytestmark = pytest.mark.attack(row=5)

WRITERS: dict[str, list[str]] = {
    "report": ["report", "RUN", "--out", "PATH"],
    "backup": ["db", "backup", "PATH"],
    "timings": ["bench", "export", "PATH", "--device", "test"],
    "mix": ["allocate", "MODEL", "--bits", "3", "--out", "PATH"],
}


def words(writer: str, run: FinishedRun, path: Path) -> list[str]:
    names = {"RUN": run.run, "PATH": str(path), "MODEL": str(run.model)}
    return [names.get(word, word) for word in WRITERS[writer]]


def state(path: Path) -> tuple[int, int, int, str]:
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_size, os.readlink(path) if path.is_symlink() else ""


def targets(folder: Path, suffix: str) -> dict[str, Path]:
    """One path of each kind that must not be replaced. The target of the links is `folder`/other."""
    folder.mkdir()
    (folder / "other").write_bytes(b"other")
    made = {kind: folder / f"{kind}{suffix}" for kind in ("directory", "link", "dangling", "fifo", "device", "file")}
    made["directory"].mkdir()
    made["link"].symlink_to(folder / "other")
    made["dangling"].symlink_to(folder / "missing")
    os.mkfifo(made["fifo"])
    made["file"].write_bytes(b"old")
    try:
        os.mknod(made["device"], stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:  # only root may make devices
        made["device"] = Path(os.devnull)
    return made


@pytest.mark.parametrize("writer", WRITERS)
def test_only_new_and_forced_regular_files_are_written(
    writer: str, abq_many: Commands, finished_run: FinishedRun, tmp_path: Path, tried: Callable[[int], None]
) -> None:
    made = targets(tmp_path / "targets", ".json")
    before = {kind: state(path) for kind, path in made.items()}
    special = [made[kind] for kind in ("device", "fifo", "link", "directory", "dangling")]
    commands = [words(writer, finished_run, path) for path in special]
    paths = [made["file"], tmp_path / "no" / "folder" / "x.json"]
    *refused, existing, missing = abq_many(*commands, *(words(writer, finished_run, path) for path in paths))
    for done, path in zip(refused, special, strict=True):
        assert_sentence(done, str(path))
    assert_sentence(existing, "--force", str(made["file"]))
    assert_sentence(missing, "does not exist")
    forced = abq_many(*([*command, "--force"] for command in commands))
    for done, path in zip(forced, special, strict=True):
        assert_sentence(done, str(path))
    assert {kind: state(path) for kind, path in made.items()} == before
    assert (tmp_path / "targets" / "other").read_bytes() == b"other" and not (tmp_path / "no").exists()
    assert {path.name for path in (tmp_path / "targets").iterdir()} <= {"other", *(p.name for p in made.values())}
    tried(2 * len(special) + 2)


def test_force_replaces_a_regular_file(abq_many: Commands, finished_run: FinishedRun, tmp_path: Path) -> None:
    paths = {writer: tmp_path / writer for writer in ("report", "backup")}
    for path in paths.values():
        path.write_bytes(b"old")
    for done in abq_many(*([*words(writer, finished_run, path), "--force"] for writer, path in paths.items())):
        assert done.returncode == 0, done.stderr
    assert all(path.read_bytes() != b"old" for path in paths.values())


def test_a_backup_never_replaces_the_database_itself(abq_many: Commands, finished_run: FinishedRun) -> None:
    database = finished_run.data / "abq.sqlite3"
    found = database.stat().st_ino
    refused, shown = abq_many(["db", "backup", str(database), "--force"], ["runs", "show", finished_run.run])
    assert_sentence(refused, "itself")
    assert database.stat().st_ino == found and shown.returncode == 0


def test_an_export_makes_a_new_folder_in_one_that_exists(
    abq_many: Commands, finished_run: FinishedRun, tmp_path: Path
) -> None:
    (tmp_path / finished_run.run).symlink_to(tmp_path / "elsewhere")
    folders = (tmp_path / "no", tmp_path)
    missing, taken = abq_many(*(["runs", "export", finished_run.run, "--to", str(folder)] for folder in folders))
    assert_sentence(missing, "not a folder")
    assert_sentence(taken, "already exists")
    assert not (tmp_path / "no").exists() and not (tmp_path / "elsewhere").exists()
