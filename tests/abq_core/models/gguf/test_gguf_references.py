"""GGUF files as references: on the hub, in folders that a page may not read, and their pinned form."""

from pathlib import Path

import pytest
from family_cases import family_model
from gguf_cases import write_gguf
from hostile_gguf import STRING, valid, value

from abq_core.models.errors import ModelError, ModelNotFoundError
from abq_core.models.hub import is_hub_id
from abq_core.models.loading import load_model
from abq_core.models.reference import fingerprint, is_local, pinned
from abq_core.models.shape import model_shape
from app.web.access.allowed_folders import AllowedFolders, ForbiddenPathError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tokenizer_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of a repository with two GGUF files, as huggingface_hub stores it: links to nameless blobs."""
    folder = tmp_path / "snapshots" / COMMIT
    (folder / "sub").mkdir(parents=True)
    blob = tmp_path / "blob"
    write_gguf(family_model("llama"), tokenizer_json, blob, "Q4_0")
    (folder / "tiny.gguf").symlink_to(blob)
    (folder / "sub" / "deep.gguf").symlink_to(blob)
    fetched: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        fetched.append((repo, revision, allow_patterns))
        assert repo == "org/name" and revision in (None, "main", COMMIT)
        assert len(allow_patterns) == 1 and allow_patterns[0].endswith(".gguf")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return folder


@pytest.mark.parametrize("name", ["org/name/tiny.gguf", "org/name/sub/deep.gguf"])
def test_a_file_of_the_hub_is_a_model(name: str, snapshot: Path) -> None:
    file = snapshot / name.removeprefix("org/name/")
    assert load_model(f"{name}@main").ref == f"{name}@main"
    assert model_shape(name).stored.types == ("Q4_0",)  # type: ignore[union-attr]
    assert pinned(name) == f"{name}@{COMMIT}" and pinned(f"{name}@main") == f"{name}@{COMMIT}"
    assert pinned(pinned(name)) == pinned(name)
    assert fingerprint(name) == fingerprint(str(file))


def test_a_file_that_the_repository_lacks_is_named(snapshot: Path) -> None:
    for entry in (load_model, model_shape, pinned, fingerprint):
        with pytest.raises(ModelNotFoundError, match=r"'org/name' has no file 'other\.gguf'"):
            entry("org/name/other.gguf")


def test_a_hostile_file_of_the_hub_is_refused(snapshot: Path) -> None:
    (snapshot / "bad.gguf").write_bytes(valid({"general.architecture": value(STRING, "mamba")}))
    with pytest.raises(ModelError, match="'mamba', which is not supported"):
        model_shape("org/name/bad.gguf")


@pytest.mark.parametrize(
    ("ref", "is_one"),
    [
        ("org/name/file.gguf", True),
        ("org/name/a/b.Q4_K_M-00001-of-00002.gguf@v1", True),
        ("org/name/file.bin", False),
        ("org/name/../file.gguf", False),
        ("org/name//file.gguf", False),
        ("/org/name/file.gguf", False),
        ("../name/file.gguf", False),
        ("org/name/.gguf", False),
    ],
)
def test_which_names_are_hub_ids(ref: str, is_one: bool) -> None:
    assert is_hub_id(ref) is is_one


def test_a_file_outside_the_allowed_folders_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "models", tmp_path / "org" / "name"
    inside.mkdir()
    outside.mkdir(parents=True)
    secret = outside / "secret.gguf"
    secret.write_bytes(valid())
    (inside / "good.gguf").write_bytes(valid())
    (inside / "link.gguf").symlink_to(secret)
    (inside / "folder").symlink_to(outside)
    folders = AllowedFolders([inside])
    good = str(inside / "good.gguf")
    assert folders.model(good) == good
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("abq_core.models.gguf.folder.read_header", _never)
    monkeypatch.setattr("abq_core.models.hub.pinned_hub_id", lambda ref: f"{ref}@{COMMIT}")
    assert is_local("org/name/secret.gguf")
    assert folders.model("org/name/secret.gguf") == f"org/name/secret.gguf@{COMMIT}"  # that of the hub
    for ref in (
        "./org/name/secret.gguf", str(secret), str(outside / "missing.gguf"), str(inside / "link.gguf"),
        str(inside / "folder" / "secret.gguf"), str(inside / ".." / "org" / "name" / "secret.gguf"),
    ):  # fmt: skip
        with pytest.raises(ForbiddenPathError, match="outside the folders"):
            folders.model(ref)


def _never(file: Path) -> None:
    raise AssertionError(f"{file} was read")
