"""Hostile folders of quantized models: each a change to a valid GPTQ or compressed-tensors folder."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from model_folder_cases import Canary, edit_json, write_safetensors
from safetensors.torch import load_file, save_file

Q_PROJ = "model.layers.0.self_attn.q_proj"


class HostileFolder(NamedTuple):
    """message: a pattern of the error.  compressed: starts from a compressed-tensors folder, not from GPTQ."""

    change: Callable[[Path], object]
    message: str
    compressed: bool = False


def _config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / "config.json", change)


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        stored = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
        change(stored)
        save_file(stored, folder / "model.safetensors")

    return edit


def _set(name: str, value: torch.Tensor) -> Callable[[Path], object]:
    return _tensors(lambda stored: stored.update({f"{Q_PROJ}.{name}": value}))


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + size])
        change(header)
        write_safetensors(file, header, raw[8 + size :])

    return edit


def _index(names: dict[str, str]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    return edit


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(folder.parent / "opened")))


def _device(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def _fifo(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def _truncated(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])


_NEST = {"quantization_config": {"a": {"b": {"auto_map": {"AutoModel": "evil.Model"}}}}}

HOSTILE_FOLDERS = {
    # configs
    "no config": HostileFolder(lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "a config that is a device": HostileFolder(_device, "has no config.json"),
    "a config that is a FIFO": HostileFolder(_fifo, "has no config.json"),
    "a config that is no JSON": HostileFolder(_write("config.json", b"{"), "is not valid JSON"),
    "a config that is a list": HostileFolder(_write("config.json", b"[]"), "contains a JSON list"),
    "a config of 17 MiB": HostileFolder(_write("config.json", b" " * (17 << 20)), "the limit is"),
    "a config nested 100,000 deep": HostileFolder(_write("config.json", b"[" * 100_000), "is not valid JSON"),
    "auto_map": HostileFolder(_config(lambda c: c.update(auto_map={"AutoModel": "evil.Model"})), "has 'auto_map'"),
    "auto_map inside the quantization": HostileFolder(_config(lambda c: c.update(_NEST)), "has 'auto_map'"),
    "trust_remote_code": HostileFolder(_config(lambda c: c.update(trust_remote_code=True)), "'trust_remote_code'"),
    "no quantization": HostileFolder(_config(lambda c: c.pop("quantization_config")), "describes no quantization"),
    "a quantization that is text": HostileFolder(
        _config(lambda c: c.update(quantization_config="gptq")), "describes no quantization"
    ),
    "another model": HostileFolder(_config(lambda c: c.update(hidden_size=1 << 40)), "has hidden_size '1099511627776'"),
    "bits that are infinite": HostileFolder(
        _config(lambda c: c["quantization_config"].update(bits=float("inf"))), "has bits 'inf'"
    ),
    "a pattern of names that takes years": HostileFolder(
        _config(
            lambda c: c["quantization_config"]["config_groups"]["group_0"].update(
                targets=["re:(a+)+$"], weights={"num_bits": 3, "type": "int"}
            )
        ),
        "has 0 config groups that fit",
        compressed=True,
    ),
    # files
    "a pickle": HostileFolder(_pickle, "its weights are only stored as 'pytorch_model.bin'"),
    "no weights": HostileFolder(lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "weights that are cut off": HostileFolder(_truncated, "is damaged"),
    "weights that are empty": HostileFolder(_write("model.safetensors", b""), "is not a complete safetensors file"),
    "a header of 2^63 bytes": HostileFolder(
        _write("model.safetensors", b"\xff" * 7 + b"\x7f" + b"{}"), "is not a complete safetensors file"
    ),
    "a header that is no JSON": HostileFolder(
        _write("model.safetensors", struct.pack("<Q", 4) + b"oops"), "a header that cannot be read"
    ),
    "an index that leaves the folder": HostileFolder(
        _index({"a": "../../../etc/passwd.safetensors"}), "names the weight file '../../../etc/passwd.safetensors'"
    ),
    "an index with an absolute path": HostileFolder(_index({"a": "/etc/passwd"}), "weight file '/etc/passwd'"),
    "an index with a null byte": HostileFolder(_index({"a": "a\0b.safetensors"}), "is missing"),
    "an index of a missing shard": HostileFolder(
        _index({"a": "model-00001-of-99999.safetensors"}), "model-00001-of-99999.safetensors is missing"
    ),
    "an index that maps to a list": HostileFolder(_index([]), "has no 'weight_map'"),  # type: ignore[arg-type]
    # tensors
    "a tensor of 2^60 values": HostileFolder(
        _header(lambda h: h[f"{Q_PROJ}.scales"].update(shape=[1 << 30, 1 << 30])), "is damaged"
    ),
    "a tensor of a negative size": HostileFolder(
        _header(lambda h: h[f"{Q_PROJ}.scales"].update(shape=[-1, 64])), "impossible size"
    ),
    "a tensor of an unknown type": HostileFolder(
        _header(lambda h: h[f"{Q_PROJ}.scales"].update(dtype="F4")), "stores '.*scales' as F4"
    ),
    "a tensor type that is a list": HostileFolder(
        _header(lambda h: h[f"{Q_PROJ}.scales"].update(dtype=["F16"])), "cannot be read"
    ),
    "offsets beyond the file": HostileFolder(
        _header(lambda h: h[f"{Q_PROJ}.scales"].update(data_offsets=[1 << 40, (1 << 40) + 256])), "is damaged"
    ),
    "a missing linear": HostileFolder(
        _tensors(lambda stored: stored.pop(f"{Q_PROJ}.qweight")), f"lacks the weights of '{Q_PROJ}.weight'"
    ),
    "missing scales": HostileFolder(_tensors(lambda stored: stored.pop(f"{Q_PROJ}.scales")), "has no usable .*scales'"),
    "codes of another shape": HostileFolder(
        _set("qweight", torch.zeros(1, 1, dtype=torch.int32)), r"has '.*qweight' of shape \(1, 1\)"
    ),
    "codes that are floats": HostileFolder(_set("qweight", torch.zeros(8, 64)), "has '.*qweight' of shape"),
    "zero points of another shape": HostileFolder(
        _set("qzeros", torch.zeros(1, 1, dtype=torch.int32)), r"has '.*qzeros' of shape \(1, 1\)"
    ),
    "scales that are integers": HostileFolder(
        _set("scales", torch.zeros(2, 64, dtype=torch.int32)), "has no usable .*scales'"
    ),
    "groups of another shape": HostileFolder(
        _set("g_idx", torch.zeros(7, dtype=torch.int32)), r"has '.*g_idx' of shape \(7,\)"
    ),
    "a tensor that no parameter uses": HostileFolder(
        _tensors(lambda stored: stored.update({"model.layers.99.x.weight": torch.zeros(2)})),
        "has the tensor 'model.layers.99.x.weight', which the base model does not use",
    ),
    "a bias that is not zero": HostileFolder(_set("bias", torch.ones(64)), "has the tensor '.*q_proj.bias'"),
    "embeddings of another shape": HostileFolder(
        _tensors(lambda stored: stored.update({"model.embed_tokens.weight": torch.zeros(2, 2)})),
        r"has 'model.embed_tokens.weight' of shape \(2, 2\)",
    ),
    "embeddings that are integers": HostileFolder(
        _tensors(
            lambda stored: stored.update(
                {"model.embed_tokens.weight": torch.zeros_like(stored["model.embed_tokens.weight"], dtype=torch.int64)}
            )
        ),
        "has 'model.embed_tokens.weight' of shape .* as torch.int64",
    ),
    "packed codes of another shape": HostileFolder(
        _set("weight_packed", torch.zeros(64, 3, dtype=torch.int32)), "has 0 config groups that fit", compressed=True
    ),
    "scales of another shape": HostileFolder(
        _set("weight_scale", torch.zeros(64, 7)), "has 7 scales per row for the 64 inputs", compressed=True
    ),
    "scales without an end": HostileFolder(
        _set("weight_scale", torch.zeros(3, 64, 2)), "has '.*weight_scale' of shape", compressed=True
    ),
    "zero points that do not fit": HostileFolder(
        _set("weight_zero_point", torch.zeros(3, 3)), "has '.*weight_zero_point' of shape", compressed=True
    ),
}  # fmt: skip

# Folders whose headers are right; the values are wrong, so that reading them is refused.
HOSTILE_VALUES = {
    "scales that are not finite": HostileFolder(
        _set("scales", torch.full((2, 64), torch.nan)), "holds values that are not finite"
    ),
    "groups beyond the scales": HostileFolder(
        _set("g_idx", torch.full((64,), 1 << 30, dtype=torch.int32)), "with groups beyond its 2 scales"
    ),
    "negative groups": HostileFolder(
        _set("g_idx", torch.full((64,), -1, dtype=torch.int32)), "with groups beyond its 2 scales"
    ),
    "groups beyond the packed scales": HostileFolder(
        _set("weight_g_idx", torch.full((64,), 9, dtype=torch.int32)), "groups beyond its 2 scales", compressed=True
    ),
    "norms that are not finite": HostileFolder(
        _tensors(lambda stored: stored["model.norm.weight"].fill_(torch.inf)), "'model.norm.weight' holds values that"
    ),
}  # fmt: skip
