"""Loading: what works, what is refused before any of it runs, and shapes without weights."""

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from family_cases import CONFIGS, family_folder
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import is_kernels_available

from abq_core.models import hub
from abq_core.models import loading as models
from abq_core.models.files import WEIGHTS, WEIGHTS_INDEX
from abq_core.models.loading import (
    ModelError,
    ModelNotFoundError,
    UnsafeModelError,
    check_config,
    fingerprint,
    load_model,
    model_shape,
)
from abq_core.precision import FULL


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLaMA that a test may spoil."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_folder_loads_ready_to_run(tiny_llama: Path) -> None:
    loaded = load_model(str(tiny_llama))
    assert loaded.precision == FULL and loaded.ref == str(tiny_llama)
    assert (loaded.context, loaded.vocabulary, loaded.tokenizer.model_max_length) == (128, 300, 128)
    assert loaded.model.config._attn_implementation == "abq"
    assert not loaded.model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.model.parameters())
    stored = load_file(tiny_llama / WEIGHTS)["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(loaded.model.model.layers[1].mlp.down_proj.weight, stored)


def test_the_folder_named_kernels_is_not_taken_for_the_library() -> None:
    import kernels

    assert Path(kernels.__file__).parent.parent == Path(models.__file__).parents[2]
    assert not is_kernels_available()


@pytest.mark.parametrize("case", CONFIGS)
def test_hidden_and_logits_are_the_models_own_forward(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load_model(str(family_folder(case, tmp_path, tiny_llama)))
    assert model_shape(loaded.ref).family == CONFIGS[case]().model_type
    ids = torch.randint(0, 300, (2, 20))
    with torch.inference_mode():
        expected = loaded.model(ids).logits
        assert torch.equal(loaded.logits(loaded.hidden(ids)), expected)
        cache = DynamicCache(config=loaded.model.config)
        parts = [loaded.hidden(part, cache) for part in ids.split([11, 1, 1, 7], dim=1)]
        torch.testing.assert_close(loaded.logits(torch.cat(parts, 1)), expected, rtol=1e-4, atol=1e-4)


def test_shape_is_that_of_the_loaded_model(tiny_llama: Path, tiny_opt: Path) -> None:
    for path in (tiny_llama, tiny_opt):
        shape, model = model_shape(str(path)), load_model(str(path)).model
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        assert (shape.blocks, shape.hidden, shape.heads, shape.vocabulary, shape.context) == (2, 64, 4, 300, 128)
        assert shape.intermediate == 96
    assert model_shape(str(tiny_llama)).kv_heads == 2
    assert model_shape(str(tiny_llama)).linears == {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (32, 64),
        "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (96, 64),
        "mlp.up_proj": (96, 64),
        "mlp.down_proj": (64, 96),
    }


def test_sharded_weights_load(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index))
    loaded = load_model(str(folder)).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"00002-of-00002\.safetensors is missing"):
        load_model(str(folder))


def test_fingerprint_follows_the_contents(folder: Path, tiny_llama: Path) -> None:
    before = fingerprint(str(folder))
    assert before == fingerprint(str(tiny_llama))
    (folder / "README.md").write_text("not part of the model")
    assert fingerprint(str(folder)) == before
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert fingerprint(str(folder)) != before


CODE = [
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


@pytest.mark.parametrize(("file", "content", "key"), CODE)
def test_a_config_that_names_code_is_refused(folder: Path, file: str, content: dict[str, object], key: str) -> None:
    canary = folder.parent / "canary"
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Config: pass\nclass T: pass\n")
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit(folder / file, lambda c: c.update(content))
    for entry in (load_model, model_shape, fingerprint):
        with pytest.raises(UnsafeModelError, match=key) as caught:
            entry(str(folder))
        assert file in str(caught.value) and "supported family" in str(caught.value)
    assert not canary.exists()


def test_a_pickle_is_refused_and_never_opened(folder: Path) -> None:
    canary = folder.parent / "canary"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    load_model(str(folder))  # safetensors beside it: the pickle is not looked at
    (folder / WEIGHTS).unlink()
    for entry in (load_model, model_shape, fingerprint):
        with pytest.raises(UnsafeModelError, match=r"pytorch_model\.bin"):
            entry(str(folder))
    assert not canary.exists()


def test_an_adapter_that_points_elsewhere_is_not_looked_at(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
    load_model(str(folder))


def write_safetensors(file: Path, header: object, body: bytes = b"") -> None:
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + body)


def test_hostile_headers_are_refused_at_once(folder: Path) -> None:
    for tensors, message in ((100_000, "header of 6,"), (25_000, "25,000 tensors")):
        entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        write_safetensors(folder / WEIGHTS, {f"t{i}": entry for i in range(tensors)})
        started = time.process_time()  # of this process: neighbours do not count
        with pytest.raises(UnsafeModelError, match=message):
            load_model(str(folder))
        assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"t": 3},
        {"t": {"dtype": "F32"}},
        {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
        {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 16]}},
        {"t": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}},
        {"t": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "u": {"a": 1}},
    ],
)
def test_damaged_headers_are_named(folder: Path, header: object) -> None:
    write_safetensors(folder / WEIGHTS, header, bytes(8))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(str(folder))


def test_damaged_and_quantized_weights_are_named(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for content, message in (
        (whole[:-100], "damaged"),
        (whole[:50], "no complete safetensors"),
        (b"", "no complete safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ModelError, match=message):
            load_model(str(folder))
    save_file({"w": torch.zeros(4, 4, dtype=torch.int8)}, folder / WEIGHTS)
    with pytest.raises(ModelError, match="quantized already"):
        load_model(str(folder))


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    dropped = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights"):
        load_model(str(folder))
    save_file(tensors | {"other": dropped}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight"):
        load_model(str(folder))
    save_file(tensors | {"model.layers.0.mlp.up_proj.weight": dropped.T.contiguous()}, folder / WEIGHTS)
    with pytest.raises(ModelError):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "evil"}, "evil.*not supported"),
        ({"model_type": None}, "not supported"),
        ({"model_type": ["llama"]}, "not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ({"hidden_size": -1}, "hidden_size -1"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"vocab_size": 10**7}, "lacks weights"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
    ],
)
def test_configs_that_make_no_sense_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    edit(folder / "config.json", lambda c: c.update(change))
    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "[" * 100_000, '{"model_type": "llama"'])
def test_malformed_json_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(str(folder))


def test_places_without_a_model(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for ref in (str(empty), str(tmp_path / "nowhere"), "", "a b c", "../..", "x\0y", "a" * 5000, "~nobody-here/x"):
        with pytest.raises(ModelNotFoundError, match="builtin"):
            load_model(ref)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelNotFoundError, match="no weights"):
        check_config(folder)


def test_an_index_cannot_leave_the_folder(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "other.safetensors")
    for name in ("../other.safetensors", str(folder.parent / "other.safetensors"), "pytorch_model.bin"):
        (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(UnsafeModelError, match="same folder"):
            load_model(str(folder))


def test_a_tokenizer_must_be_there_and_fit(folder: Path) -> None:
    added = {f"word{i}": 300 + i for i in range(9)}
    edit(folder / "tokenizer.json", lambda c: c["model"]["vocab"].update(added))
    with pytest.raises(ModelError, match="309 tokens but 300 embeddings"):
        load_model(str(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(str(folder))


def test_an_unusable_device_is_named(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="'warp'"):
        load_model(str(tiny_llama), device="warp")


def test_threads_may_load_and_ask_for_shapes_at_once() -> None:
    tie, errors = PreTrainedModel.tie_weights, list[Exception]()

    def ask(read: Callable[[str], object]) -> None:
        try:
            for _ in range(4):
                read("builtin")
        except Exception as error:
            errors.append(error)

    threads = [Thread(target=ask, args=(read,)) for read in (load_model, model_shape) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert PreTrainedModel.tie_weights is tie  # as transformers leaves it where two threads are in it


def test_hub_ids_are_checked_before_weights_are_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        fetched.append((repo, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_model("org/name@refs/pr/3").ref == "org/name@refs/pr/3"
    assert [(repo, revision) for repo, revision, _ in fetched] == [("org/name", "refs/pr/3")] * 2
    assert not any("safetensors" in p and "index" not in p for p in fetched[0][2])
    assert all(p.endswith((".json", ".txt", ".safetensors")) for _, _, patterns in fetched for p in patterns)
    fetched.clear()
    assert model_shape("org/name").blocks == 2
    assert len(fetched) == 1
    edit(folder / "config.json", lambda c: c.update(auto_map={}))
    fetched.clear()
    with pytest.raises(UnsafeModelError):
        load_model("org/name")
    assert len(fetched) == 1


def test_a_hub_id_is_pinned_to_its_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = folder.rename(folder.parent / commit)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, revision, allow_patterns: str(snapshot))
    assert models.pinned("org/name") == models.pinned("org/name@main") == f"org/name@{commit}"
    assert models.pinned(f"org/name@{'f' * 40}") == f"org/name@{'f' * 40}"
    assert models.pinned("builtin") == "builtin" and models.pinned(str(snapshot)) == str(snapshot)
    for ref in ("a b c", "../nowhere"):
        with pytest.raises(ModelNotFoundError):
            models.pinned(ref)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(shutil.copytree(snapshot, folder)))
    with pytest.raises(ModelError, match="has no commit"):
        models.pinned("org/other")


def test_offline_says_what_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def no_network(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(ModelNotFoundError, match=r"Offline, use 'builtin', a folder"):
        hub.hub_folder("org/name", weights=True)


def test_builtin_names_the_folder_that_comes_with_the_project(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models.BUILTIN_FOLDER.parent == Path(models.__file__).parents[1] / "builtin"
    monkeypatch.setattr(models, "BUILTIN_FOLDER", tiny_llama)
    assert load_model("builtin").ref == "builtin"
