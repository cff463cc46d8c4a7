"""GGUF files: llama.cpp loads them, this project's reader reads them back, and what cannot be held is refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import gguf_cases
import pytest
import torch
from export_cases import export_source
from tiny_tokenizers import chat_folder, chat_tokenizer

from abq_core.calibration.artifacts import MemoryStore
from abq_core.export.errors import ExportError
from abq_core.export.formats import Options, export_run
from abq_core.export.gguf.tokenizer import vocabulary_of
from abq_core.export.gguf.writer import write_gguf
from abq_core.inference.runtime import streamed_model
from abq_core.models.gguf.header import read_header
from abq_core.models.loading import load_model
from abq_core.models.tokenizer import encode

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


def ignore(done: int, total: int) -> None:
    """Do nothing at a step."""


def wide_folder(folder: Path) -> Path:
    """A LLaMA with rows of 256, and a tokenizer with a chat template."""
    gguf_cases.wide_llama().save_pretrained(folder)
    chat_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_is_the_run(family: str, rotated: bool, tmp_path: Path) -> None:
    """Read back as a full-precision model, it has the logits of the run with activations in full precision."""
    base = load_model(str(chat_folder(family, tmp_path / "model")))
    source = export_source(base, "W4A16+rotation" if rotated else "W4A16")
    write_gguf(source, tmp_path, False, ignore)
    read = load_model(str(tmp_path / "model.gguf"))
    run = streamed_model(source.base, source.precision, source.store)
    ids = torch.arange(3, 9)[None]  # within the window of Mistral, which llama.cpp does not have
    with torch.no_grad():
        expected = run.logits(_hidden(run, ids))
        found = read.logits(read.hidden(ids))
    assert (found - expected).abs().max() <= 2e-3 * (expected.max() - expected.min())
    text = "def open(path): 12 files.\n"
    assert encode(read.tokenizer, [text], True) == encode(base.tokenizer, [text], True)
    assert read.tokenizer.chat_template == base.tokenizer.chat_template


def _hidden(run: object, ids: torch.Tensor) -> torch.Tensor:
    from abq_core.evaluation.block_pass import last_hidden_states

    return torch.stack(list(last_hidden_states(run, ids)))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["W2A8", "W2*A8", "W4A8", "W4A8h6+rotation", "W8A8+symmetric"])
def test_llama_cpp_computes_what_the_run_computes(text: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    source = export_source(load_model(str(wide_folder(tmp_path / "model"))), text)
    done = export_run(source, "gguf", tmp_path / "out", Options(), dict(os.environ), ignore)
    assert done.path == str(tmp_path / "out" / "model.gguf")
    assert done.proof.checked, done.proof.reason
    assert done.proof.runtime.startswith("llama.cpp")
    assert done.proof.kl is not None and done.proof.kl <= 0.01
    assert [sentence.partition(":")[0] for sentence in done.dropped] == ["8-bit activations"]


def test_types_are_the_smallest_that_are_exact(tmp_path: Path) -> None:
    base = load_model(str(wide_folder(tmp_path / "model")))
    write_gguf(export_source(base, "W2A8"), tmp_path, False, ignore)
    header = read_header(tmp_path / "model.gguf")
    assert header.tensors["blk.0.attn_q.weight"].type.name == "Q2_K"
    assert header.tensors["blk.0.attn_norm.weight"].type.name == "F32"
    assert header.fields["general.architecture"] == "llama"
    assert header.fields["tokenizer.chat_template"] == base.tokenizer.chat_template
    assert header.fields["tokenizer.ggml.add_bos_token"] is True


class ShuffledStore(MemoryStore):
    """Returns the tensors of a block in another order at each call, as safetensors does."""

    def load(self, block: int) -> dict[str, torch.Tensor] | None:
        """The tensors of a block, the last first, then the first first."""
        self.blocks[block] = dict(reversed(self.blocks[block].items()))
        return self.blocks[block]


def test_the_order_of_stored_tensors_does_not_matter(tmp_path: Path, tiny_llama: Path) -> None:
    source = export_source(load_model(str(tiny_llama)), "W4A8")
    shuffled = ShuffledStore()
    shuffled.blocks = source.store.blocks  # type: ignore[attr-defined]
    for name, store in (("one", source.store), ("other", shuffled)):
        (tmp_path / name).mkdir()
        write_gguf(replace(source, store=store), tmp_path / name, False, ignore)
    assert (tmp_path / "one" / "model.gguf").read_bytes() == (tmp_path / "other" / "model.gguf").read_bytes()


def test_a_transform_is_refused_with_the_ways_out(tmp_path: Path, tiny_llama: Path) -> None:
    source = export_source(load_model(str(tiny_llama)), "W4A8+hadamard")
    with pytest.raises(
        ExportError, match=r"--switch hadamard=false, and also --switch rotation=true .* compressed-tensors"
    ):
        export_run(source, "gguf", tmp_path / "out", Options(), {}, ignore)
    assert list(tmp_path.iterdir()) == []


def test_levels_without_a_type_are_refused_or_rounded_again(tmp_path: Path, tiny_llama: Path) -> None:
    source = export_source(load_model(str(tiny_llama)), "W8A16")
    with pytest.raises(ExportError, match=r"--switch symmetric=true, or round again with --nearest"):
        write_gguf(source, tmp_path, False, ignore)
    (tmp_path / "nearest").mkdir()
    dropped, _ = write_gguf(source, tmp_path / "nearest", True, ignore)
    assert dropped[0].startswith("Exact levels of 14 tensors, which were rounded again: relative error at most 0.")
    assert read_header(tmp_path / "nearest" / "model.gguf").tensors["blk.1.ffn_down.weight"].type.name == "Q8_0"


def test_other_families_are_refused(tmp_path: Path, tiny_opt: Path) -> None:
    with pytest.raises(ExportError, match="The family opt is not written as GGUF"):
        write_gguf(export_source(load_model(str(tiny_opt)), "W4A8"), tmp_path, False, ignore)


def test_scaled_positions(tmp_path: Path) -> None:
    folder = chat_folder("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    config["rope_parameters"] = rope | {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    (folder / "config.json").write_text(json.dumps(config))
    base = load_model(str(folder))
    write_gguf(export_source(base, "W4A16"), tmp_path, False, ignore)
    read = load_model(str(tmp_path / "model.gguf"))
    positions = torch.arange(100)[None]
    x = torch.zeros(1)
    expected, found = (one.model.model.rotary_emb(x, positions)[0] for one in (base, read))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_way_to_cut_texts_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    content = json.loads((tiny_llama / "tokenizer.json").read_text("utf-8"))
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, content["pre_tokenizer"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match="cuts texts by a rule"):
        vocabulary_of(tmp_path, 300)


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, tiny_llama: Path) -> None:
    source = export_source(load_model(str(tiny_llama)), "W4A8")
    del source.store.blocks[1]  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="Block 1 of this run is missing"):
        export_run(source, "gguf", tmp_path / "out", Options(), {}, ignore)
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_of_a_table_need_nearest(tiny_llama: Path, tmp_path: Path) -> None:
    base = load_model(str(tiny_llama))
    with pytest.raises(ExportError, match=r"embed_tokens\.weight exactly.*--nearest, or .* at most 7 bits"):
        write_gguf(export_source(base, "W4A16e8"), tmp_path, False, ignore)
    write_gguf(export_source(base, "W4A16e7"), tmp_path, False, ignore)
