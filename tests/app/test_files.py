"""Atomic file writes.

An interrupted write keeps the old content, and only regular files are replaced.
"""

import os
import socket
import stat
from pathlib import Path

import pytest

from app.files import OWNER_ONLY, NotRegularFileError, write_atomically


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(f"app.files.os.{function}", fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_callback_before_the_rename_sees_the_old_file_and_can_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse() -> None:
        assert path.read_bytes() == b"old"
        raise KeyError("not the owner")

    with pytest.raises(KeyError):
        write_atomically(path, b"new", refuse)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_file_contents_and_folder_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr("app.files.os.fsync", record_fsync)
    monkeypatch.setattr("app.files.os.replace", record_replace)
    write_atomically(tmp_path / "new" / "file", b"data")
    assert calls == ["file", "rename", "folder"]


def test_permissions_are_those_asked_for(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", b"data", mode=OWNER_ONLY)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    (tmp_path / "reference").touch()
    write_atomically(tmp_path / "public", b"data")
    modes = [(tmp_path / name).stat().st_mode for name in ("public", "reference")]
    assert modes[0] == modes[1], "like any new file of this process"


@pytest.mark.parametrize("kind", ["directory", "symbolic link", "dangling link", "FIFO", "socket", "device"])
def test_only_a_regular_file_is_replaced(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "target", tmp_path / "other"
    other.write_bytes(b"other")
    if kind == "directory":
        path.mkdir()
    elif kind == "symbolic link":
        path.symlink_to(other)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "missing")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path = Path(os.devnull)
    before = path.lstat().st_mode, path.lstat().st_ino
    with pytest.raises(NotRegularFileError, match="not a regular file") as caught:
        write_atomically(path, b"new")
    assert str(path) in str(caught.value)
    assert (path.lstat().st_mode, path.lstat().st_ino) == before and other.read_bytes() == b"other"
    assert not (tmp_path / "missing").exists() and not list(tmp_path.glob(".*"))


def test_missing_parent_folders_are_created_unless_told_otherwise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "a" / "file", b"data", make_parents=False)
    assert not (tmp_path / "a").exists()
    write_atomically(tmp_path / "a" / "b" / "file", b"data")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"data"
