"""Files that are refused before transformers opens them: code, pickles, malformed JSON."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from model_folder_cases import Canary, edit_json

from abq_core.models.errors import ModelError, UnsafeModelError
from abq_core.models.files import WEIGHTS, WEIGHTS_INDEX, check_settings, link_files
from abq_core.models.loading import load_model
from abq_core.models.reference import fingerprint
from abq_core.models.shape import model_shape

CODE_KEYS = [
    ("config.json", {"auto_map": {"AutoConfig": "code.Config"}}, "auto_map"),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", None]}}, "auto_map"),
    ("config.json", {"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
    ("config.json", {"text_config": {"_attn_implementation": "evil/kernel"}}, "_attn_implementation"),
    ("config.json", {"attn_implementation": "evil/kernel"}, "attn_implementation"),
    ("config.json", {"_experts_implementation_internal": "evil/kernel"}, "_experts_implementation_internal"),
    ("config.json", {"rope_parameters": {"deep": [{"er": {"trust_remote_code": True}}]}}, "trust_remote_code"),
    ("generation_config.json", {"nested": {"trust_remote_code": False}}, "trust_remote_code"),
    ("special_tokens_map.json", {"trust_remote_code": True}, "trust_remote_code"),
    ("config.json", {"transformers_weights": "adapter_model.bin"}, "transformers_weights"),
]


@pytest.mark.parametrize(("file", "content", "key"), CODE_KEYS)
def test_a_config_that_names_code_is_refused(folder: Path, file: str, content: dict[str, object], key: str) -> None:
    canary = folder.parent / "canary"
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Config: pass\nclass T: pass\n")
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit_json(folder / file, lambda c: c.update(content))
    for entry in (load_model, model_shape, fingerprint):
        with pytest.raises(UnsafeModelError, match=key) as caught:
            entry(str(folder))
        assert file in str(caught.value) and "supported family" in str(caught.value)
    assert not canary.exists()


def test_a_pickle_is_refused_and_never_opened(folder: Path) -> None:
    canary = folder.parent / "canary"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    load_model(str(folder))  # with safetensors present, the pickle is ignored
    (folder / WEIGHTS).unlink()
    for entry in (load_model, model_shape, fingerprint):
        with pytest.raises(UnsafeModelError, match=r"pytorch_model\.bin"):
            entry(str(folder))
    assert not canary.exists()


def test_an_adapter_that_points_elsewhere_is_ignored(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
    load_model(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "[" * 100_000, '{"model_type": "llama"'])
def test_malformed_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(str(folder))


def test_an_index_cannot_leave_the_folder(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "other.safetensors")
    for name in ("../other.safetensors", str(folder.parent / "other.safetensors"), "pytorch_model.bin"):
        (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(UnsafeModelError, match="same folder"):
            load_model(str(folder))


def test_only_checked_files_are_linked(folder: Path, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "modeling.py", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    target = tmp_path / "links"
    target.mkdir()
    link_files(folder, target)
    assert {file.name for file in target.iterdir()} == {
        "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", WEIGHTS,
    }  # fmt: skip
    written = {"config.json", "generation_config.json"}
    links = [file for file in target.iterdir() if file.name not in written]
    assert all(file.is_symlink() and file.resolve() == (folder / file.name).resolve() for file in links)


def test_only_known_fields_of_a_config_are_passed_on(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    more = {"per_layer_config": {"0": {"hidden_size": 1}}, "num_labels": 3, "made_up": 1, "output_hidden_states": True}
    edit_json(folder / "config.json", lambda c: c.update(more))
    edit_json(folder / "generation_config.json", lambda c: c.update({"assistant_model": "evil/model"}))
    target = tmp_path / "links"
    target.mkdir()
    link_files(folder, target)
    written = json.loads((target / "config.json").read_text())
    assert not written.keys() & more.keys() and {k: config[k] for k in written} == written
    assert {"hidden_size", "num_hidden_layers", "rope_parameters", "model_type", "dtype"} <= written.keys()
    assert json.loads((target / "generation_config.json").read_text()).keys() == {"bos_token_id", "eos_token_id"}


def test_settings_and_tokenizers_of_excessive_size_are_refused(folder: Path) -> None:
    for name, size, message in (("tokenizer.json", 129 << 20, "128 MiB"), ("config.json", 17 << 20, "the limit is")):
        original = (folder / name).read_bytes()
        with (folder / name).open("r+b") as stream:
            stream.truncate(size)
        with pytest.raises(UnsafeModelError, match=message):
            check_settings(folder)
        (folder / name).write_bytes(original)
    assert check_settings(folder)["model_type"] == "llama"
