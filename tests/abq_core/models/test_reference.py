"""Model references: the built-in model, pinned revisions, fingerprints."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import abq_core
from abq_core.models import reference
from abq_core.models.errors import ModelError, ModelNotFoundError
from abq_core.models.files import WEIGHTS
from abq_core.models.loading import load_model
from abq_core.models.reference import BUILTIN_FOLDER, fingerprint, pinned


def test_fingerprint_follows_the_contents(folder: Path, tiny_llama: Path) -> None:
    before = fingerprint(str(folder))
    assert before == fingerprint(str(tiny_llama))
    (folder / "README.md").write_text("not part of the model")
    assert fingerprint(str(folder)) == before
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert fingerprint(str(folder)) != before


def test_a_hub_id_is_pinned_to_its_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = folder.rename(folder.parent / commit)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, revision, allow_patterns: str(snapshot))
    assert pinned("org/name") == pinned("org/name@main") == f"org/name@{commit}"
    assert pinned(f"org/name@{'f' * 40}") == f"org/name@{'f' * 40}"
    assert pinned("builtin") == "builtin" and pinned(str(snapshot)) == str(snapshot)
    for ref in ("a b c", "../nowhere"):
        with pytest.raises(ModelNotFoundError):
            pinned(ref)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(shutil.copytree(snapshot, folder)))
    with pytest.raises(ModelError, match="commit of 'org/other' is unknown"):
        pinned("org/other")


def test_builtin_is_the_folder_in_the_package(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert BUILTIN_FOLDER.parent == Path(abq_core.__file__).parent / "builtin"
    monkeypatch.setattr(reference, "BUILTIN_FOLDER", tiny_llama)
    assert load_model("builtin").ref == "builtin"
