"""Imports from the hub: what is fetched, in which order, and the commit that a run stores."""

import os
from pathlib import Path

import pytest
from model_folder_cases import edit_json
from packed_cases import write_gptq

from abq_core.imports.opening import import_path, open_import, pinned_import
from abq_core.models.errors import ModelNotFoundError, UnsafeModelError

COMMIT = "0123456789abcdef" * 2 + "01234567"
Fetched = list[list[str]]


@pytest.fixture
def snapshot(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Fetched]:
    """The snapshot of a repository with a GPTQ model, and the patterns that were fetched."""
    folder = tmp_path / "snapshots" / COMMIT
    write_gptq(tiny_llama, folder)
    (folder / "deep").mkdir()
    os.symlink("/nowhere", folder / "deep" / "model.Q4_K_M.gguf")
    fetched: Fetched = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo, revision) in {("org/name", None), ("org/name", COMMIT)}
        fetched.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return folder, fetched


def test_a_repository_is_opened_at_its_commit(snapshot: tuple[Path, Fetched], tiny_llama: Path) -> None:
    folder, fetched = snapshot
    assert pinned_import("org/name") == f"org/name@{COMMIT}" == pinned_import(f"org/name@{COMMIT}")
    assert open_import(f"org/name@{COMMIT}", str(tiny_llama)).path == folder
    named = {pattern for patterns in fetched for pattern in patterns}
    configs = {"config.json", "quantize_config.json", "model.safetensors.index.json"}
    assert named == configs | {"model.safetensors", "model-*.safetensors"}


def test_a_config_is_checked_before_weights_are_fetched(snapshot: tuple[Path, Fetched]) -> None:
    folder, fetched = snapshot
    edit_json(folder / "config.json", lambda config: config.update(auto_map={"AutoModel": "evil.Model"}))
    with pytest.raises(UnsafeModelError, match="auto_map"):
        pinned_import("org/name")
    assert len(fetched) == 1 and not any(pattern.endswith(".safetensors") for pattern in fetched[0])


def test_a_file_of_a_repository(snapshot: tuple[Path, Fetched]) -> None:
    folder, fetched = snapshot
    (folder / "deep" / "model.Q4_K_M.gguf").unlink()
    (folder / "deep" / "model.Q4_K_M.gguf").write_bytes(b"")
    assert pinned_import("org/name/deep/model.Q4_K_M.gguf") == f"org/name/deep/model.Q4_K_M.gguf@{COMMIT}"
    assert import_path("org/name/deep/model.Q4_K_M.gguf") == folder / "deep" / "model.Q4_K_M.gguf"
    assert fetched == [["deep/model.Q4_K_M.gguf"]] * 2
    with pytest.raises(ModelNotFoundError, match=r"has no file 'deep/missing\.gguf'"):
        pinned_import("org/name/deep/missing.gguf")


@pytest.mark.parametrize("ref", ["", "a b", "../x", "org/name@", "/nowhere/x.gguf", "x\0y", "~nosuchuser/x.gguf"])
def test_what_is_no_reference_is_refused(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="neither a"):
        import_path(ref)
