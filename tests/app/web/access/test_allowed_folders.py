"""Folders whose models and texts the page may read."""

import os
from pathlib import Path

import pytest
from app_cases import SpecMaker

from abq_core.models.errors import ModelNotFoundError
from app.services import Services, open_services
from app.web.access.allowed_folders import AllowedFolders, ForbiddenPathError, page_folders


def test_files_outside_the_folders_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = AllowedFolders([tmp_path / "texts"])

    def looked(*_: object, **__: object) -> None:
        raise AssertionError("the file system was asked about a path outside the allowed folders")

    with monkeypatch.context() as patch:
        for name in ("stat", "lstat", "readlink"):
            patch.setattr(os, name, looked)
        inside = folders.contains(str(tmp_path / "secret.txt"))
    assert not inside


def test_paths_are_compared_after_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "alias").symlink_to(tmp_path / "texts")
    (tmp_path / "texts" / "out").symlink_to(tmp_path)
    folders = AllowedFolders([tmp_path / "alias"])
    for path, inside in {
        "texts/a.txt": True,
        "texts/deep/../a.txt": True,
        "texts": True,
        "texts/out/a.txt": False,
        "texts/out/texts/a.txt": True,
        "texts/out/../a.txt": False,
        "texts/../a.txt": False,
        "texts2/a.txt": False,
        "texts/\0.txt": False,
    }.items():
        assert folders.contains(f"{tmp_path}/{path}") == inside, path
    assert not folders.contains("~nosuchuser/a.txt")


def test_names_pass(tmp_path: Path) -> None:
    folders = AllowedFolders([tmp_path / "models"])
    assert folders.model("builtin") == "builtin"
    for text in ("builtin", "wikitext2", "c4", "wikitext2@main"):
        folders.check_text(text)
    for model in ("./org/name", str(tmp_path), "../x", "/nowhere"):
        with pytest.raises(ForbiddenPathError, match="outside the folders"):
            folders.model(model)
    for text in ("a.txt", "/etc/passwd", "wikitext2@a.txt", "org/name"):
        with pytest.raises(ForbiddenPathError, match="outside the folders"):
            folders.check_text(text)


def test_a_hub_id_does_not_reveal_folders_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def commit_of(ref: str) -> str:
        asked.append(ref)
        if ref == "org/private":
            raise ModelNotFoundError("no such model")
        return f"{ref}@{'0' * 40}"

    monkeypatch.setattr("abq_core.models.hub.pinned_hub_id", commit_of)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "private").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "org"):  # with folders of these names, and without
        monkeypatch.chdir(place)
        folders = AllowedFolders([tmp_path / "models"])
        assert [folders.model("org/name") for _ in range(2)] == [f"org/name@{'0' * 40}"] * 2
        with pytest.raises(ModelNotFoundError, match="no such model"):
            folders.model("org/private")
    assert asked == ["org/name", "org/private"] * 2
    here = AllowedFolders([tmp_path / "org"])
    assert here.model("name") == "name" and len(asked) == 4


def test_a_root_folder_as_home_or_current_folder_allows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir("/")
    folders = page_folders(tmp_path, only_this_account=True)
    assert not folders.contains("/etc/passwd") and folders.contains(str(tmp_path / "a.txt"))


def test_with_a_login_only_two_folders_and_those_of_allow(tmp_path: Path) -> None:
    folders = page_folders(tmp_path / "data", only_this_account=False, allow=[tmp_path / "more"])
    assert folders.folders == (tmp_path / "data/texts", tmp_path / "data/models", tmp_path / "more")
    assert all(folder.is_dir() for folder in folders.folders[:2])


def test_the_command_line_reads_every_path(services: Services, tiny_llama: Path) -> None:
    assert services.models.shape(str(tiny_llama)).parameters > 0


def test_texts_of_the_text_lab_are_refused_before_they_are_looked_at(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal repeats what was typed: a resolved path would tell what the link points to."""
    page = open_services(services.settings, AllowedFolders([services.settings.data_dir / "texts"]))
    with pytest.raises(ForbiddenPathError, match="'/proc/self/cwd' is outside"):
        page.text_lab.plan(tiny_spec(), ["/proc/self/cwd", "builtin"])


@pytest.mark.parametrize("measure", ["time_decode", "profile_decode"])
def test_models_to_time_are_refused_before_they_are_looked_at(services: Services, measure: str) -> None:
    page = open_services(services.settings, AllowedFolders([services.settings.data_dir / "models"]))
    with pytest.raises(ForbiddenPathError, match="'/proc/self/cwd' is outside"):
        getattr(page.throughput, measure)(["W2A8"], 4, "/proc/self/cwd")
