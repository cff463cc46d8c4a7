"""compressed-tensors: what is written, and that stock transformers computes what the run computes."""

import json
import os
from pathlib import Path

import pytest
import torch
from export_cases import export_source
from safetensors.torch import load_file

from abq_core.export.compressed_tensors import pack, write_compressed_tensors
from abq_core.export.errors import ExportError
from abq_core.export.formats import Options, export_run
from abq_core.export.proof import TRANSFORMERS
from abq_core.models.loading import load_model

EXACT = [
    "W4A8",
    "W2A8+half_zero",
    "W2*A8",
    "W6A8+half_zero",
    "W8A8",
    "W8A8+symmetric",
    "W4A16g32",
    "W4A8g96",
    "W4A8h4+rotation",
]


def ignore(done: int, total: int) -> None:
    """Do nothing at a step."""


@pytest.mark.parametrize("bits", range(1, 9))
def test_pack_writes_a_dense_bit_stream(bits: int) -> None:
    torch.manual_seed(0)
    half = 1 << (bits - 1)
    values = torch.randint(-half, half, (3, 70), dtype=torch.int16)
    packed = pack(values, bits)
    assert packed.shape == (3, -(-70 * bits // 32)) and packed.dtype == torch.int32
    for row, words in zip(values.tolist(), packed.tolist(), strict=True):
        stream = sum((word & 0xFFFFFFFF) << 32 * at for at, word in enumerate(words))
        assert [(stream >> bits * at & (1 << bits) - 1) - half for at in range(70)] == row


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_pack_is_that_of_the_library(bits: int) -> None:
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    half = 1 << (bits - 1)
    values = torch.randint(-half, half, (5, 100), dtype=torch.int16)
    assert torch.equal(pack(values, bits), library.pack_to_int32(values.to(torch.int8), bits))


@pytest.mark.parametrize("text", EXACT)
def test_transformers_computes_what_the_run_computes(text: str, tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    source = export_source(load_model(str(tiny_llama)), text)
    done = export_run(source, "compressed-tensors", tmp_path / "out", Options(), dict(os.environ), ignore)
    proof = done.proof
    assert proof.checked, proof.reason
    assert proof.runtime.startswith("transformers 5")
    assert proof.median_logit_difference is not None and proof.logit_range is not None and proof.kl is not None
    assert proof.median_logit_difference <= 1e-3 * proof.logit_range
    assert proof.kl <= 1e-3
    assert done.dropped == []


def test_float_noise_matters_only_where_activations_are_rounded(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    noise = []
    for text in ("W4A16", "W4A4"):
        source = export_source(load_model(str(tiny_llama)), text)
        proof = export_run(source, "compressed-tensors", tmp_path / text, Options(), dict(os.environ), ignore).proof
        assert f"| {proof.kl_of_float_noise:.3g} nats |" in (tmp_path / text / "README.md").read_text("utf-8")
        noise.append(proof.kl_of_float_noise or 0.0)
    assert noise[0] < 1e-9 < noise[1]


def test_a_transform_is_described_and_applied(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    source = export_source(load_model(str(tiny_llama)), "W4A8+hadamard")
    done = export_run(source, "compressed-tensors", tmp_path / "out", Options(), dict(os.environ), ignore)
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    groups = config["quantization_config"]["transform_config"]["config_groups"]
    assert {group["head_dim"] for group in groups.values()} == {32, 64}
    assert all(group["apply"][0]["location"] == "input" for group in groups.values())
    assert done.proof.checked, done.proof.reason
    assert done.proof.kl is not None and done.proof.kl < 1e-2
    assert "apply_transform_config" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_the_config_is_what_the_library_accepts(tiny_llama: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("compressed_tensors.quantization")
    write_compressed_tensors(export_source(load_model(str(tiny_llama)), "W2A8"), tmp_path, "symmetric", ignore)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))["quantization_config"]
    read = library.QuantizationConfig.model_validate(config)
    (group,) = read.config_groups.values()
    assert (group.weights.num_bits, group.weights.symmetric, group.weights.strategy) == (3, True, "channel")
    assert (group.input_activations.symmetric, group.input_activations.dynamic) == (True, True)


def test_what_is_written(tiny_llama: Path, tmp_path: Path) -> None:
    source = export_source(load_model(str(tiny_llama)), "W4A8kv8h4e4")
    dropped, weight_bytes = write_compressed_tensors(source, tmp_path, "run", ignore)
    tensors = load_file(tmp_path / "model.safetensors")
    assert weight_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert tensors["model.layers.0.mlp.down_proj.weight_packed"].dtype == torch.int32
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16
    assert tensors["lm_head.weight_packed"].shape[0] == 300  # a table of its own in this model
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert str(tiny_llama.parent) not in json.dumps(config)
    head = next(g for g in config["quantization_config"]["config_groups"].values() if g["targets"] == ["lm_head"])
    assert head["input_activations"] is None
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert [sentence.partition(":")[0] for sentence in dropped] == ["8-bit KV cache", "Packed embedding"]


def test_levels_that_do_not_fit_are_refused_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    source = export_source(load_model(str(tiny_llama)), "W8*A8")
    with pytest.raises(ExportError, match=r"model\.layers\.0\.self_attn\.q_proj .*Use fewer bits"):
        export_run(source, "compressed-tensors", tmp_path / "out", Options(), {}, ignore)
    assert list(tmp_path.iterdir()) == []


def test_without_the_runtime_the_answer_says_so(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(TRANSFORMERS), "missing", lambda self: list(self.packages.values())[-1:])
    source = export_source(load_model(str(tiny_llama)), "W4A8")
    done = export_run(source, "compressed-tensors", tmp_path / "out", Options(), {}, ignore)
    assert not done.proof.checked
    assert done.proof.reason.startswith("compressed-tensors is not installed here.")
    assert [proof.reason for proof in done.more_proofs] == [
        "vllm is not installed here. Install with: pip install vllm."
    ]
    assert "Not checked in vLLM: vllm is not installed" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("text", ["W8A8+symmetric", "W6A8+half_zero"])
def test_eight_bits_of_a_row_are_plain_bytes(text: str, tiny_llama: Path, tmp_path: Path) -> None:
    """vLLM has int8 kernels for these."""
    write_compressed_tensors(export_source(load_model(str(tiny_llama)), text), tmp_path, "run", ignore)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.down_proj"
    assert {key.removeprefix(f"{name}.") for key in tensors if key.startswith(name)} == {"weight", "weight_scale"}
    assert tensors[f"{name}.weight"].dtype == torch.int8
    (group,) = json.loads((tmp_path / "config.json").read_text("utf-8"))["quantization_config"][
        "config_groups"
    ].values()
    assert (group["format"], group["weights"]["symmetric"]) == ("int-quantized", True)


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    from tiny_tokenizers import chat_folder

    source = export_source(load_model(str(chat_folder("mixtral", tmp_path / "model"))), "W4A8")
    with pytest.raises(ExportError, match="mixture of experts"):
        export_run(source, "compressed-tensors", tmp_path / "out", Options(), {}, ignore)
