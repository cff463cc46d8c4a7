"""The export panel: text of an export, its proof and its table, with everything escaped."""

from dataclasses import asdict, replace

from abq_core.export.loading_table import loading_table
from abq_core.export.proof import Proof
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.web.tabs.compare.export_panel import _answer, _options, _table

PROOF = Proof("llama.cpp (xllamacpp 1)", True, "", 96, 0.5, 0.01, 18.0, 0.002, 0.0003, 0.97, 20, 20, 30.0)
KEPT = {"bytes": 3 << 20, "bits_per_parameter": 5.25, "dropped": ["8-bit activations: rounded there."]}


def test_a_kept_export_shows_its_proof_and_a_download() -> None:
    text = _answer("r-0123456789", "gguf", {**KEPT, "proof": asdict(PROOF)}, {})
    assert 'href="abq/export/r-0123456789/gguf.zip"' in text
    assert "3.00 MiB" in text and "5.25" in text and "8-bit activations" in text
    assert "KL 0.002 nats (float32 noise alone: 0.0003), same most likely token 97.0 %" in text
    assert "abq export r-0123456789 --to gguf" in text


def test_an_unchecked_export_says_why_and_escapes_it() -> None:
    proof = replace(Proof("llama.cpp", False), reason="<b>not</b> installed")
    text = _answer("r-0123456789", "gguf", {**KEPT, "proof": asdict(proof)}, {})
    assert "Not checked in llama.cpp: &lt;b&gt;not&lt;/b&gt; installed" in text


def test_every_runtime_that_was_asked_has_its_sentence() -> None:
    missing = Proof("vLLM", False, "vllm is not installed here.")
    text = _answer("r-0123456789", "gguf", {**KEPT, "proof": asdict(PROOF), "more_proofs": [asdict(missing)]}, {})
    assert "Checked in llama.cpp" in text and "Not checked in vLLM: vllm is not installed here." in text


def test_without_an_export_the_panel_says_what_it_is_for() -> None:
    text = _answer("r-0123456789", "gguf", None, {})
    assert "Not exported to gguf yet: for llama.cpp, Ollama and LM Studio" in text and "Download" not in text


def test_the_command_has_the_options_of_the_boxes() -> None:
    symmetric = _options("compressed-tensors", True, True)
    assert "--to compressed-tensors --activations symmetric --out" in _answer(
        "r-0", "compressed-tensors", None, symmetric
    )
    assert "--to gguf --nearest --out" in _answer("r-0", "gguf", None, _options("gguf", True, True))
    assert _options("transformers", True, True) == {}


def test_the_table_has_a_row_per_runtime() -> None:
    facts = loading_table(CalibrationSpec("builtin", Precision.parse("W4A8"), "abq"), "llama")
    text = _table(facts)
    assert text.count("<tr data-key") == len(facts)
    assert "vllm serve DIR --linear-backend humming" in text
