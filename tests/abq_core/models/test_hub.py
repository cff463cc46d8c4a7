"""Models of the hub: the order of downloads and checks, and messages without a network."""

from pathlib import Path

import pytest
from model_folder_cases import edit_json

from abq_core.models import hub
from abq_core.models.errors import ModelError, ModelNotFoundError, UnsafeModelError
from abq_core.models.loading import load_model
from abq_core.models.shape import model_shape


def test_hub_ids_are_checked_before_weights_are_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        fetched.append((repo, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_model("org/name@refs/pr/3").ref == "org/name@refs/pr/3"
    assert [(repo, revision) for repo, revision, _ in fetched] == [("org/name", "refs/pr/3")] * 2
    assert not any("safetensors" in p and "index" not in p for p in fetched[0][2])
    assert all(p.endswith((".json", ".txt", ".jinja", ".safetensors")) for _, _, patterns in fetched for p in patterns)
    fetched.clear()
    assert model_shape("org/name").blocks == 2
    assert len(fetched) == 1
    edit_json(folder / "config.json", lambda c: c.update(auto_map={}))
    fetched.clear()
    with pytest.raises(UnsafeModelError):
        load_model("org/name")
    assert len(fetched) == 1


def test_without_a_network_the_message_names_the_alternatives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no_network(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(ModelNotFoundError, match=r"Offline, use 'builtin', a folder"):
        hub.hub_folder("org/name", weights=True)


def test_a_gated_model_is_named_with_the_commands_to_download_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub.errors import GatedRepoError

    def gated(*_: object, **__: object) -> str:
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "http://hub.test")))

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    with pytest.raises(ModelError, match=r"'org/name' is gated: .*hf download org/name"):
        hub.hub_folder("org/name", weights=False)


@pytest.mark.parametrize("ref", ["", "a b", "../x", "org/name@", "org/name@a b", "a/b/c"])
def test_a_reference_that_is_not_a_hub_id_is_refused(ref: str) -> None:
    with pytest.raises(ModelNotFoundError, match="neither a folder nor a hub id"):
        hub.hub_folder(ref, weights=False)
