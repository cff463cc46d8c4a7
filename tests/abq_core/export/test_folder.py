"""The target of an export: a new folder, all or nothing."""

import os
from pathlib import Path

import pytest

from abq_core.export.errors import ExportError
from abq_core.export.folder import export_target, folder_bytes, new_folder


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = export_target(tmp_path / "out")
    with new_folder(target) as folder:
        (folder / "a.bin").write_bytes(b"1234")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert folder_bytes(target) == 4


def test_nothing_remains_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as folder:
        (folder / "a.bin").write_bytes(b"1234")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(export_target(tmp_path / "out")) as folder:
        (folder / "a").touch()
    assert (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize("kind", ["file", "full", "link", "dangling", "fifo", "orphan", "null", "long", "below a file"])
def test_other_targets_are_refused(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    match kind:
        case "file":
            target.write_text("kept")
        case "full":
            target = tmp_path / "full"
        case "link":
            target.symlink_to(tmp_path / "full")
        case "dangling":
            target.symlink_to(tmp_path / "nowhere")
        case "fifo":
            os.mkfifo(target)
        case "orphan":
            target = tmp_path / "missing" / "out"
        case "null":
            target = Path(f"{tmp_path}/a\0b")
        case "long":
            target = tmp_path / ("a" * 300)
        case "below a file":
            target = tmp_path / "full" / "kept" / "out"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError):
        export_target(target)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "full" / "kept").read_text() == "kept"


def test_a_target_that_was_filled_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(ExportError, match="already exists"), new_folder(target):
        target.mkdir()
        (target / "kept").touch()
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [target]
