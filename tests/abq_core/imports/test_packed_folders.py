"""GPTQ, AutoRound and compressed-tensors folders decode to the weights that they encode."""

import json
from pathlib import Path

import pytest
import torch
from model_folder_cases import edit_json
from packed_cases import linears, write_compressed, write_gptq
from safetensors.torch import load_file, save_file

from abq_core.imports.base_layout import base_layout
from abq_core.imports.opening import open_import
from abq_core.imports.spec import ImportSpec
from abq_core.models.errors import ModelError


def check(base: Path, folder: Path, expected: dict[str, torch.Tensor], bits: int) -> None:
    """Every linear decodes to the expected values, on levels of these bits; other parameters are unchanged."""
    source = open_import(str(folder), str(base))
    original = load_file(base / "model.safetensors")
    for name in original:
        found = source.read(name)
        torch.testing.assert_close(found.values, expected.get(name, original[name]), rtol=0, atol=0)
        if name in expected:
            assert found.levels is not None and int(found.levels.max() - found.levels.min()) < 2 ** (bits + 1)
    stored = load_file(folder / "model.safetensors")
    biases = sum(value.nbytes for name, value in stored.items() if name.endswith(".bias"))  # zeros that count nowhere
    assert sum(source.sizes.values()) == sum(value.nbytes for value in stored.values()) - biases


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("form", "offset"), [("gptq", 1), ("gptq_v2", 0)])
def test_gptq(tiny_llama: Path, tmp_path: Path, bits: int, shuffled: bool, form: str, offset: int) -> None:
    config = {"checkpoint_format": form}
    expected = write_gptq(tiny_llama, tmp_path, bits, shuffled=shuffled, offset=offset, config=config)
    check(tiny_llama, tmp_path, expected, bits)
    assert open_import(str(tmp_path), str(tiny_llama)).name == f"GPTQ W{bits}g32"


def test_gptq_with_the_older_config(tiny_llama: Path, tmp_path: Path) -> None:
    expected = write_gptq(tiny_llama, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    older = config.pop("quantization_config")
    del older["quant_method"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(older))
    check(tiny_llama, tmp_path, expected, 4)
    (tmp_path / "model.safetensors").rename(tmp_path / "gptq_model-4bit-32g.safetensors")
    source = open_import(str(tmp_path), str(tiny_llama))
    assert source.name == "GPTQ W4g32" and source.files[-1].name == "gptq_model-4bit-32g.safetensors"
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="has no weights"):
        open_import(str(tmp_path), str(tiny_llama))


@pytest.mark.parametrize(
    ("form", "offset"), [("auto_round:auto_gptq", 1), ("auto_round:gptqmodel", 0), ("auto_round", 0)]
)
def test_auto_round(tiny_llama: Path, tmp_path: Path, form: str, offset: int) -> None:
    config = {"quant_method": "auto-round", "packing_format": form, "data_type": "int"}
    expected = write_gptq(tiny_llama, tmp_path, offset=offset, config=config)
    check(tiny_llama, tmp_path, expected, 4)
    assert open_import(str(tmp_path), str(tiny_llama)).name == "AutoRound W4g32"


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors(tiny_llama: Path, tmp_path: Path, bits: int, group: int | None, symmetric: bool) -> None:
    expected = write_compressed(tiny_llama, tmp_path, bits, group, symmetric=symmetric)
    check(tiny_llama, tmp_path, expected, bits)
    name = f"compressed-tensors W{bits}{'g32' if group else ''}"
    assert open_import(str(tmp_path), str(tiny_llama)).name == name


@pytest.mark.parametrize("symmetric", [True, False])
def test_compressed_tensors_that_are_not_packed(tiny_llama: Path, tmp_path: Path, symmetric: bool) -> None:
    expected = write_compressed(tiny_llama, tmp_path, 8, None, symmetric=symmetric, is_packed=False, act_bits=8)
    check(tiny_llama, tmp_path, expected, 8)
    source = open_import(str(tmp_path), str(tiny_llama))
    assert source.name == "compressed-tensors W8A8" and dict(source.activations) == dict.fromkeys(expected, (8, True))


def test_fp8(tiny_llama: Path, tmp_path: Path) -> None:
    write_compressed(tiny_llama, tmp_path, 8, None, is_packed=False)
    stored, expected = load_file(tmp_path / "model.safetensors"), {}
    for name, weight in linears(tiny_llama).items():
        stored[name] = (weight * 4).to(torch.float8_e4m3fn)
        stored[name.replace(".weight", ".weight_scale")] = torch.tensor([0.25])
        expected[name] = stored[name].float() / 4
    save_file(stored, tmp_path / "model.safetensors")
    edit_json(
        tmp_path / "config.json",
        lambda config: config["quantization_config"]["config_groups"]["group_0"]["weights"].update(
            type="float", strategy="tensor"
        ),
    )
    source = open_import(str(tmp_path), str(tiny_llama))
    assert source.name == "compressed-tensors FP8"
    for name, weight in expected.items():
        found = source.read(name)
        assert torch.equal(found.values, weight) and found.levels is None


def test_sizes_are_those_of_the_tensors(tiny_llama: Path, tmp_path: Path) -> None:
    write_compressed(tiny_llama, tmp_path, 4, 32)
    base = base_layout(str(tiny_llama))
    spec = ImportSpec.of(base, str(tmp_path), open_import(str(tmp_path), str(tiny_llama)), "builtin")
    weights = sum(weight.numel() for weight in linears(tiny_llama).values())
    shapes = 16 * len(linears(tiny_llama))  # weight_shape, two int64 each
    assert spec.weight_bytes == weights // 2 + weights // 32 * 2 + shapes
    assert spec.stored_bits == 8 * spec.weight_bytes / weights
    others = base.parameters - weights
    assert spec.model_bytes == spec.weight_bytes + 4 * others  # the tiny model is stored in float32
    assert spec.bits_per_parameter == 8 * spec.model_bytes / base.parameters
    assert ImportSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "awq"}, "was quantized with 'awq', which cannot be imported"),
        ({"quant_method": "bitsandbytes"}, "quantized with 'bitsandbytes'"),
        ({"quant_method": ["gptq"]}, "which cannot be imported"),
        ({"dynamic": {"x": {"bits": 8}}}, "has 'dynamic'"),
        ({"checkpoint_format": "marlin"}, "has the GPTQ format 'marlin'"),
        ({"bits": 1}, "has 1 bits"),
        ({"bits": "4"}, "has bits '4': it must be a whole number"),
        ({"group_size": 1 << 40}, "has group_size '1099511627776'"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}, "AutoRound format 'auto_round:auto"),
        ({"quant_method": "auto-round", "data_type": "mx_fp"}, "has the data type 'mx_fp'"),
        ({"quant_method": "auto-round", "act_bits": 8}, "quantizes activations"),
    ],
)
def test_a_gptq_format_that_cannot_be_read_is_named(
    tiny_llama: Path, tmp_path: Path, config: dict[str, object], message: str
) -> None:
    write_gptq(tiny_llama, tmp_path, config=config)
    with pytest.raises(ModelError, match=message):
        open_import(str(tmp_path), str(tiny_llama))


_WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def _groups(weights: dict[str, object] | None = None, **group: object) -> dict[str, object]:
    return {"config_groups": {"a": {"weights": _WEIGHTS | (weights or {}), **group}}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transform_config": {"config_groups": {}}}, "has 'transform_config'"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "has 'kv_cache_scheme'"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "has 'sparsity_config'"),
        ({"format": "nvfp4-pack-quantized"}, "has the format 'nvfp4-pack-quantized'"),
        ({"config_groups": {}}, "has no 'config_groups'"),
        ({"config_groups": {str(n): {"weights": _WEIGHTS} for n in range(300)}}, "more than 256"),
        ({"config_groups": {"a": {"weights": None}}}, "group without 'weights'"),
        (_groups(type="int", format="marlin-24"), "has the format 'marlin-24'"),
        (_groups({"strategy": "block"}), "with the strategy 'block'"),
        (_groups({"type": "float", "num_bits": 4}), "has floats of 4 bits"),
        (_groups({"num_bits": 9}), "has num_bits '9'"),
        (_groups({"num_bits": 8}), "has 0 config groups that fit"),
        (_groups(input_activations=_TOKEN | {"dynamic": False}), "input activations with dynamic 'False'"),
        (_groups(input_activations=_TOKEN | {"type": "float"}), "input activations with type 'float'"),
        (_groups(input_activations=7), "'input_activations' that are not an object"),
        (_groups(output_activations={"num_bits": 8}), "quantizes outputs"),
        (
            {"config_groups": {"a": {"weights": _WEIGHTS}, "b": {"weights": _WEIGHTS, "input_activations": _TOKEN}}},
            "has 2 config groups that fit",
        ),
    ],
)
def test_a_compressed_format_that_cannot_be_read_is_named(
    tiny_llama: Path, tmp_path: Path, config: dict[str, object], message: str
) -> None:
    write_compressed(tiny_llama, tmp_path, config=config)
    with pytest.raises(ModelError, match=message):
        open_import(str(tmp_path), str(tiny_llama))
