"""Hostile folders and files are named errors within two seconds, and write nothing outside."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_folders import HOSTILE_FOLDERS, HOSTILE_VALUES, HostileFolder
from hostile_gguf import HOSTILE
from packed_cases import write_compressed, write_gptq

from abq_core.imports.base_layout import BaseLayout, base_layout
from abq_core.imports.blocks import read_block, read_outside
from abq_core.imports.opening import open_import
from abq_core.models.errors import ModelError

SECONDS = 20.0  # 2 on an idle machine


@pytest.fixture(scope="module")
def folders(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A valid folder of each format, by whether it is compressed-tensors."""
    parent = tmp_path_factory.mktemp("valid")
    write_gptq(tiny_llama, parent / "gptq")
    write_compressed(tiny_llama, parent / "compressed")
    return {False: parent / "gptq", True: parent / "compressed"}


@pytest.fixture(scope="module")
def layout(tiny_llama: Path) -> BaseLayout:
    return base_layout(str(tiny_llama))


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the case. Nothing may appear beside the case in it, in the current folder or in the home folder."""
    for name in ("home", "current"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "current")
    yield tmp_path
    assert sorted(os.listdir(tmp_path)) in (["case", "current", "home"], ["case.gguf", "current", "home"])
    assert not any((tmp_path / name).iterdir() for name in ("home", "current") if os.listdir(tmp_path / name))


def refused(path: Path, base: Path, layout: BaseLayout, message: str, read: bool = False) -> None:
    """Opening the import, or reading its parts, is an error that names it, in time."""
    started = time.thread_time()
    with pytest.raises(ModelError, match=message) as caught:
        source = open_import(str(path), str(base), layout)
        for block in range(len(layout.blocks) if read else 0):
            read_block(source, layout, block)
        if read:
            read_outside(source, layout)
    assert time.thread_time() - started < SECONDS
    assert path.name in str(caught.value) and len(str(caught.value)) < 1000


def made(hostile: HostileFolder, folders: dict[bool, Path], parent: Path) -> Path:
    folder = Path(shutil.copytree(folders[hostile.compressed], parent / "case"))
    hostile.change(folder)
    return folder


def test_there_are_at_least_thirty() -> None:
    assert len(HOSTILE_FOLDERS) + len(HOSTILE_VALUES) >= 30 and len(HOSTILE) >= 30


@pytest.mark.parametrize("name", HOSTILE_FOLDERS)
def test_a_hostile_folder_is_refused(
    name: str, folders: dict[bool, Path], tiny_llama: Path, layout: BaseLayout, watched: Path
) -> None:
    hostile = HOSTILE_FOLDERS[name]
    refused(made(hostile, folders, watched), tiny_llama, layout, hostile.message)


@pytest.mark.parametrize("name", HOSTILE_VALUES)
def test_hostile_values_are_refused_when_they_are_read(
    name: str, folders: dict[bool, Path], tiny_llama: Path, layout: BaseLayout, watched: Path
) -> None:
    hostile = HOSTILE_VALUES[name]
    refused(made(hostile, folders, watched), tiny_llama, layout, hostile.message, read=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str, tiny_llama: Path, layout: BaseLayout, watched: Path) -> None:
    """The tokenizer of a file is only compared, so other errors than those of a model may come first."""
    hostile = HOSTILE[name]
    file = watched / "case.gguf"
    file.write_bytes(hostile.content)
    if hostile.size > len(hostile.content):
        os.truncate(file, hostile.size)
    refused(file, tiny_llama, layout, ".")


def test_a_valid_folder_is_not_refused(folders: dict[bool, Path], tiny_llama: Path, layout: BaseLayout) -> None:
    for folder in folders.values():
        source = open_import(str(folder), str(tiny_llama), layout)
        assert len(read_block(source, layout, 1).parameters) == 9
        assert set(read_outside(source, layout).parameters) == {
            "model.embed_tokens.weight",
            "model.norm.weight",
            "lm_head.weight",
        }
