"""Folders as GPTQ, AutoRound and compressed-tensors write them, and the weights that they encode.

The packing is written down here again, with Python's integers, apart from `abq_core.imports`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def packed(codes: Tensor, bits: int) -> Tensor:
    """Codes (rows, k), each 0..2^bits - 1, as int32 words (rows, n): one bit stream per row, lowest bits first."""
    words = -(-codes.shape[1] * bits // 32)
    rows = []
    for row in codes.tolist():
        stream = sum(code << (place * bits) for place, code in enumerate(row))
        rows.append(list(memoryview(stream.to_bytes(4 * words, "little")).cast("i")))
    return torch.tensor(rows, dtype=torch.int32)


def linears(folder: Path) -> Tensors:
    """The weights of the blocks' linears of a saved LLaMA."""
    return {name: value for name, value in load_file(folder / "model.safetensors").items() if "_proj.weight" in name}


def grid(weight: Tensor, bits: int, group: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (rows, k), scales (rows, groups) float16 and zero points (rows, groups), 1..2^bits - 1, near a weight."""
    rows, k = weight.shape
    generator = torch.Generator().manual_seed(seed)
    groups = -(-k // group)
    scale = (weight.abs().amax() / 2 ** (bits - 1) * (0.9 + 0.2 * torch.rand(rows, groups, generator=generator))).half()
    zero = torch.randint(1, 2**bits, (rows, groups), generator=generator)
    at = torch.arange(k) // group
    codes = (weight / scale.float()[:, at] + zero[:, at]).round().clamp(0, 2**bits - 1).int()
    return codes, scale, zero


def write_gptq(
    base: Path,
    folder: Path,
    bits: int = 4,
    group: int = 32,
    *,
    shuffled: bool = False,
    offset: int = 1,
    config: dict[str, Any] | None = None,
) -> Tensors:
    """A GPTQ folder of a saved LLaMA. Returns the weights that it encodes.

    shuffled: inputs belong to groups in a random order (desc_act).  offset: how much stored zero points are reduced.
    config: replaces fields of quantization_config.
    """
    stored = {name: value.clone() for name, value in load_file(base / "model.safetensors").items()}
    expected: Tensors = {}
    for seed, (name, weight) in enumerate(linears(base).items()):
        rows, k = weight.shape
        codes, scale, zero = grid(weight, bits, group, seed)
        index = torch.arange(k) // group
        if shuffled:
            index = index[torch.randperm(k, generator=torch.Generator().manual_seed(seed))]
        prefix = name.removesuffix(".weight")
        del stored[name]
        stored[f"{prefix}.qweight"] = packed(codes, bits).T.contiguous()
        stored[f"{prefix}.qzeros"] = packed((zero.T - offset) % 2**bits, bits)
        stored[f"{prefix}.scales"] = scale.T.contiguous()
        stored[f"{prefix}.g_idx"] = index.int()
        stored[f"{prefix}.bias"] = torch.zeros(rows, dtype=torch.float16)
        expected[name] = (codes - zero[:, index]).float() * scale.float()[:, index]
    quantization = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": shuffled, "sym": False}
    save(base, folder, stored, quantization | (config or {}))
    return expected


def write_compressed(
    base: Path,
    folder: Path,
    bits: int = 4,
    group: int | None = 32,
    *,
    symmetric: bool = True,
    is_packed: bool = True,
    act_bits: int = 16,
    config: dict[str, Any] | None = None,
) -> Tensors:
    """A compressed-tensors folder of a saved LLaMA. Returns the weights that it encodes.

    group: None for one scale per row.  is_packed: pack-quantized, else int-quantized.
    """
    stored = {name: value.clone() for name, value in load_file(base / "model.safetensors").items()}
    expected: Tensors = {}
    half = 2 ** (bits - 1)
    for seed, (name, weight) in enumerate(linears(base).items()):
        rows, k = weight.shape
        codes, scale, zero = grid(weight, bits, group or k, seed)
        if symmetric:
            zero = torch.full_like(zero, half)
        at = torch.arange(k) // (group or k)
        prefix = name.removesuffix(".weight")
        del stored[name]
        if is_packed:
            stored[f"{prefix}.weight_packed"] = packed(codes, bits)
            stored[f"{prefix}.weight_shape"] = torch.tensor([rows, k])
        else:
            stored[f"{prefix}.weight"] = (codes - half).to(torch.int8)
        stored[f"{prefix}.weight_scale"] = scale
        if not symmetric:
            zeros = packed(zero.T, bits).T.contiguous() if is_packed else (zero - half).to(torch.int8)
            stored[f"{prefix}.weight_zero_point"] = zeros
        expected[name] = (codes - zero[:, at]).float() * scale.float()[:, at]
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel"}
    activations = {"num_bits": act_bits, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    form = "pack-quantized" if is_packed else "int-quantized"
    scheme = {
        "targets": ["Linear"],
        "weights": weights | {"group_size": group},
        "input_activations": activations if act_bits < 16 else None,
        "format": form,
    }
    quantization = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": scheme},
        "ignore": ["lm_head"],
    }
    save(base, folder, stored, quantization | (config or {}))
    return expected


def save(base: Path, folder: Path, stored: Tensors, quantization: dict[str, Any]) -> None:
    """Write the tensors, and the base model's config with a `quantization_config`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "model.safetensors")
    config = json.loads((base / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}), "utf-8")
