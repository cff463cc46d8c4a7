"""GGUF files decode to the weights that they encode, on the levels of their format."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from family_cases import family_model
from gguf import GGMLQuantizationType
from gguf_cases import QUANTIZED, family_gguf, gguf_and_folder, wide_llama, write_gguf
from model_folder_cases import edit_json

from abq_core.imports.base_layout import base_layout
from abq_core.imports.gguf_levels import levels_of
from abq_core.imports.opening import open_import
from abq_core.models.errors import ModelError
from abq_core.models.gguf.header import Tensor, read_header
from abq_core.models.gguf.tensor_types import TENSOR_TYPES
from abq_core.models.loading import load_model

# The levels of each format, in steps of the scale of a group; codebook formats have none.
LEVELS = {
    "Q4_0": range(-8, 8), "Q4_1": range(16), "Q5_0": range(-16, 16), "Q5_1": range(32), "Q8_0": range(-127, 128),
    "Q2_K": range(4), "Q3_K": range(-4, 4), "Q4_K": range(16), "Q5_K": range(32), "Q6_K": range(-32, 32),
    "IQ4_NL": gguf.quants.IQ4_NL.kvalues, "IQ4_XS": gguf.quants.IQ4_NL.kvalues, "TQ1_0": range(-1, 2),
    "TQ2_0": range(-1, 2), "MXFP4": sorted({value for value in gguf.quants.MXFP4.kvalues}),
}  # fmt: skip


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_file_of_every_type(tiny_llama: Path, tmp_path: Path, kind: str) -> None:
    file, folder = gguf_and_folder(wide_llama(), tiny_llama / "tokenizer.json", tmp_path, kind)
    source = open_import(str(file), str(folder))
    base = load_model(str(folder))
    layout = base_layout(str(folder))
    assert source.format == "gguf" and source.name == kind
    assert set(source.sizes) == set(layout.shapes)
    for name, parameter in base.model.named_parameters():
        found = source.read(name)
        assert torch.equal(found.values, parameter.float())
        if name in layout.linears and kind in LEVELS:
            assert found.levels is not None and set(found.levels.unique().tolist()) <= set(LEVELS[kind])
        elif parameter.ndim == 1 or kind not in LEVELS:
            assert found.levels is None


@pytest.mark.parametrize("number", [number for number, kind in TENSOR_TYPES.items() if kind.name in LEVELS])
def test_values_are_levels_times_the_scale_of_their_group(number: int, tmp_path: Path) -> None:
    """Within a group of 16, values are an affine function of the levels, and every level of the format occurs."""
    kind = TENSOR_TYPES[number]
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (64, kind.size), np.uint8)
    for at in kind.scales:
        blocks[:, at : at + 2] = (0.5 + rng.random((64, 1))).astype(np.float16).view(np.uint8)
    if kind.name == "MXFP4":
        blocks[:, 0] = rng.integers(100, 140, 64)
    if kind.name.startswith("TQ"):  # arbitrary bytes are not all ternary codes
        blocks = gguf.quantize(rng.normal(size=(64, 256)).astype(np.float32), GGMLQuantizationType(number))
    values = gguf.dequantize(blocks, GGMLQuantizationType(number)).reshape(-1, 16)
    header = read_header(_any_file(tmp_path))
    levels = levels_of(header, Tensor("x", kind, (64, kind.values), 0, 0), blocks)
    assert levels is not None
    found = levels.reshape(-1, 16)
    seen = set(np.unique(found).astype(int).tolist())
    assert seen <= {-128, *LEVELS[kind.name]} and len(seen) >= min(len(LEVELS[kind.name]), 200)
    for group, steps in zip(values, found, strict=True):
        slope, offset = np.polyfit(steps, group, 1) if np.ptp(steps) else (0.0, group[0])
        np.testing.assert_allclose(slope * steps + offset, group, rtol=0, atol=1e-4 * max(1.0, np.abs(group).max()))


def _any_file(folder: Path) -> Path:
    writer = gguf.GGUFWriter(folder / "any.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return folder / "any.gguf"


@pytest.mark.parametrize("case", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3"])
def test_every_family(tiny_llama: Path, tmp_path: Path, case: str) -> None:
    file, folder = family_gguf(case, tiny_llama / "tokenizer.json", tmp_path, "Q8_0")
    source = open_import(str(file), str(folder))
    for name, parameter in load_model(str(folder)).model.named_parameters():
        torch.testing.assert_close(source.read(name).values, parameter.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("file_type", "kind", "name"),
    [(15, "Q4_K", "Q4_K_M"), (14, "Q4_K", "Q4_K_S"), (15, "Q8_0", "Q8_0"), (999, "Q4_K", "Q4_K"), (7, "Q8_0", "Q8_0")],
)
def test_the_name_is_that_of_llama_cpp_if_the_types_agree(
    tiny_llama: Path, tmp_path: Path, file_type: int, kind: str, name: str
) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_file_type(file_type)

    file, folder = gguf_and_folder(wide_llama(), tiny_llama / "tokenizer.json", tmp_path, kind, more=more)
    assert open_import(str(file), str(folder)).name == name


def test_an_own_head_of_a_tied_base_is_read(tiny_llama: Path, tmp_path: Path) -> None:
    model = family_model("gemma3_text")
    assert model.config.tie_word_embeddings
    head = model.get_input_embeddings().weight.numpy() * 2
    file, folder = gguf_and_folder(model, tiny_llama / "tokenizer.json", tmp_path, "F32")
    write_gguf(model, tiny_llama / "tokenizer.json", file, "F32", extra={"output.weight": head})
    source = open_import(str(file), str(folder))
    assert np.array_equal(source.read("lm_head.weight").values.numpy(), head)


def test_a_file_of_another_model_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    file, folder = family_gguf("llama", tiny_llama / "tokenizer.json", tmp_path / "a")
    other = family_gguf("qwen2", tiny_llama / "tokenizer.json", tmp_path / "b")[1]
    with pytest.raises(ModelError, match=r"has a model of the family llama, but .* is qwen2"):
        open_import(str(file), str(other))
    with pytest.raises(ModelError, match=r"has (hidden_size|intermediate_size|num_hidden_layers) \d+, but"):
        open_import(str(file), "builtin")
    edit_json(folder / "tokenizer.json", _shift_tokens)
    with pytest.raises(ModelError, match="has other tokens than"):
        open_import(str(file), str(folder))


def _shift_tokens(content: dict[str, dict[str, dict[str, int]]]) -> None:
    vocabulary = content["model"]["vocab"]
    names = list(vocabulary)
    for name, number in zip(names, [vocabulary[other] for other in names[100:] + names[:100]], strict=True):
        vocabulary[name] = number
