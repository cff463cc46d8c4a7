"""vLLM, where it is installed (`make vllm`), computes what the run computes."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from export_cases import export_source

from abq_core.export.compressed_tensors import Activations
from abq_core.export.formats import Options, export_run
from abq_core.export.proof import Proof
from abq_core.models.loading import load_model

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm")


@pytest.mark.parametrize(
    ("text", "activations", "most_kl"),
    [
        ("W8A8+symmetric", "run", 1e-3),
        ("W3A16", "symmetric", 5e-3),
        ("W4A16g64+symmetric", "symmetric", 5e-3),
        ("W4A8+symmetric", "symmetric", 1e-2),
    ],
)
def test_vllm_computes_what_the_run_computes(
    text: str, activations: Activations, most_kl: float, tmp_path: Path
) -> None:
    """W8A8 in float32; 4-bit weights in bfloat16, and there without rounding activations."""
    proof = proof_in_vllm(text, activations, tmp_path / "out")
    assert proof.checked, proof.reason
    assert proof.runtime.startswith("vLLM ")
    assert proof.kl is not None and proof.kl <= most_kl
    assert f"loaded in {proof.runtime}" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_what_vllm_cannot_run_is_said(tmp_path: Path) -> None:
    proof = proof_in_vllm("W2A16", "symmetric", tmp_path / "out")
    assert not proof.checked and proof.reason.startswith("vLLM could not run it")


def proof_in_vllm(text: str, activations: Activations, folder: Path) -> Proof:
    """The proof of an export of the built-in model with rounded weights."""
    source = export_source(load_model("builtin"), text)
    options = Options(activations=activations)
    (proof,) = export_run(source, "compressed-tensors", folder, options, dict(os.environ), lambda *_: None).more_proofs
    return proof
