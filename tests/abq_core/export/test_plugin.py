"""The project's own format in transformers: the packed engine, saving, and no random weights without the import."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from export_cases import RECORD, export_source
from tiny_tokenizers import chat_folder
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.export.plugin.modules import EngineLinear
from abq_core.export.plugin.writer import write_packed
from abq_core.export.source import ExportSource
from abq_core.inference.runtime import quantized_model
from abq_core.mix import MixedLinear, PrecisionMix
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import load_model
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import linears_of
from abq_core.spec import CalibrationSpec

IDS = torch.arange(3, 23)[None]


def ignore(done: int, total: int) -> None:
    """Do nothing at a step."""


def written(model: Path, text: str, folder: Path) -> torch.Tensor:
    """Write a rounded model, and return the logits of the packed run for IDS."""
    return written_source(export_source(load_model(str(model)), text), folder)


def written_source(source: ExportSource, folder: Path) -> torch.Tensor:
    folder.mkdir()
    write_packed(source, folder, ignore)
    run = quantized_model(source.base, source.precision, source.store, "packed")
    with torch.no_grad():
        return run.logits(run.hidden(IDS))


def loaded(folder: Path) -> torch.nn.Module:
    """The model of a folder, without a weight that is missing or has no place."""
    logging.disable_progress_bar()
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits of a loaded model for IDS."""
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.mark.parametrize(
    "text",
    ["W4A8", "W2*A8g32", "W2A8+half_zero", "W4A8+hadamard", "W4A8+rotation", "W4A8kv8", "W4A8h8e8", "W4A16h4", "W16A8"],
)
def test_a_folder_computes_what_the_packed_run_computes(text: str, tiny_llama: Path, tmp_path: Path) -> None:
    expected = written(tiny_llama, text, tmp_path / "out")
    model = loaded(tmp_path / "out")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_linears_run_on_the_engine_and_text_is_generated(tiny_llama: Path, tmp_path: Path) -> None:
    written(tiny_llama, "W4A8", tmp_path / "out")
    model = loaded(tmp_path / "out")
    assert sum(isinstance(module, EngineLinear) for module in model.modules()) == 14
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = model.generate(**tokenizer("The module", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert ids.shape[1] > 1


def test_each_linear_of_a_mix_keeps_its_activation_bits(tiny_llama: Path, tmp_path: Path) -> None:
    base, texts = load_model(str(tiny_llama)), itertools.cycle(("W4A8", "W16A4", "W4A4"))
    mix = PrecisionMix(
        tuple(
            MixedLinear(index, name, Precision.parse(next(texts)), linear.weight.numel())
            for index, block in enumerate(blocks_of(base.model))
            for name, linear in linears_of(block).items()
        )
    )
    spec, store = CalibrationSpec(base.ref, mix, "rtn", segments=2, seq_len=16), MemoryStore()
    calibrate(base, spec, store)
    expected = written_source(ExportSource.of(base, spec, store, RECORD), tmp_path / "out")
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", ["W2*A8g32", "W4A8+hadamard", "W4A8h8e8+rotation"])
@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
def test_save_pretrained_writes_the_same_model(family: str, text: str, tmp_path: Path) -> None:
    expected = written(chat_folder(family, tmp_path / "model"), text, tmp_path / "out")
    model = loaded(tmp_path / "out")
    model.save_pretrained(tmp_path / "saved")
    assert sorted(file.name for file in (tmp_path / "saved").glob("*.safetensors")) == ["model.abq.safetensors"]
    torch.testing.assert_close(logits(loaded(tmp_path / "saved")), expected, rtol=1e-4, atol=1e-4)


def test_the_size_is_that_of_the_bit_planes(tiny_llama: Path, tmp_path: Path) -> None:
    written(tiny_llama, "W2A8h2e2", tmp_path / "out")
    size = (tmp_path / "out" / "model.abq.safetensors").stat().st_size
    assert size < (tiny_llama / "model.safetensors").stat().st_size / 4


@pytest.mark.parametrize("name", ["AutoModelForCausalLM", "LlamaForCausalLM", "AutoConfig"])
def test_without_the_import_loading_fails_plainly(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    written(tiny_llama, "W4A8", tmp_path / "out")
    code = f"from transformers import {name}; {name}.from_pretrained({str(tmp_path / 'out')!r}); print('loaded')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0 and "loaded" not in done.stdout
    assert "abq" in done.stderr or "no file named model.safetensors" in done.stderr


@pytest.mark.parametrize("first", ["abq_core", "transformers"])
def test_the_order_of_imports_does_not_matter(first: str, tiny_llama: Path, tmp_path: Path) -> None:
    written(tiny_llama, "W4A8", tmp_path / "out")
    imports = ["import abq_core", "from transformers import AutoModelForCausalLM"]
    lines = imports if first == "abq_core" else imports[::-1]
    load = f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path / 'out')!r})).__name__)"
    done = subprocess.run([sys.executable, "-c", "\n".join([*lines, load])], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "AbqLlamaForCausalLM"


def test_the_registration_imports_no_family_and_no_quantizer() -> None:
    """It runs while transformers is being imported: modules that another thread is importing would be a deadlock."""
    code = """if True:
        import sys, abq_core
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        assert "abq" in CONFIG_MAPPING
        unwanted = ("transformers.models.llama", "transformers.quantizers", "abq_core.models")
        print([name for name in sys.modules if name.startswith(unwanted)])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("family", ["no_such_family", None, ["llama"]])
def test_an_unknown_family_is_refused(family: object, tiny_llama: Path, tmp_path: Path) -> None:
    written(tiny_llama, "W4A8", tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"base_model_type": family}))
    with pytest.raises(ValueError, match=r"base_model_type is .* which is none of: .*llama"):
        loaded(tmp_path / "out")


def test_another_version_of_the_format_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    written(tiny_llama, "W4A8", tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text("utf-8"))
    config["quantization_config"]["version"] = 99
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="version 99 of the format abq, and this program reads 1"):
        loaded(tmp_path / "out")
