"""The bits of embedding and LM head in a calibration: blocks depend on the former alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import calibrated
from torch import Tensor

from abq_core.analysis.diagnostics import diagnose
from abq_core.calibration.artifacts import MemoryStore, to_bytes
from abq_core.calibration.block_inputs import capture_block_inputs, quantized_embeddings
from abq_core.inference.runtime import quantized_model, rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.tables import round_embedding

LEARNED = {"method": "abq", "epochs": 1}
TOGETHER = {"method": "abq+", "epochs": 1, "end_to_end_segments": 4}


def files(store: MemoryStore) -> list[bytes]:
    return [to_bytes(store.blocks[index]) for index in sorted(store.blocks)]


@pytest.mark.parametrize("settings", [LEARNED, TOGETHER])
def test_the_head_changes_no_block_and_the_embedding_does(base: LoadedModel, settings: dict[str, object]) -> None:
    plain = files(calibrated(base, "W4A4", **settings))
    assert files(calibrated(base, "W4A4h2", **settings)) == plain
    assert files(calibrated(base, "W4A4e8", **settings)) != plain


def test_the_bits_of_a_tied_table_are_those_of_the_embedding(tiny_opt: Path) -> None:
    base = load_model(str(tiny_opt))
    by_head, both = (files(calibrated(base, precision, **LEARNED)) for precision in ("W4A4h4", "W4A4h4e4"))
    assert by_head == both != files(calibrated(base, "W4A4", **LEARNED))


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_blocks_read_the_rounded_embedding(family: str, tiny_llama: Path, tiny_opt: Path, ids: Tensor) -> None:
    base = load_model(str(tiny_llama if family == "llama" else tiny_opt))
    found = quantized_embeddings(base.model, ids, Precision.parse("W4A4e3"))
    exact = capture_block_inputs(base.model, ids).hidden
    rounded = load_model(base.ref)
    round_embedding(rounded.model, 3)
    assert found is not None and torch.equal(found, capture_block_inputs(rounded.model, ids).hidden)
    assert not torch.equal(found, exact) and torch.equal(capture_block_inputs(base.model, ids).hidden, exact)
    assert quantized_embeddings(base.model, ids, Precision.parse("W4A4")) is None


def test_a_run_of_rtn_is_rounding_of_everything(base: LoadedModel, ids: Tensor) -> None:
    precision = Precision.parse("W4A8h6e5")
    calibrated_model = quantized_model(base, precision, calibrated(base, str(precision)), "simulated")
    rounded = rounded_model(base, precision, "simulated")
    with torch.inference_mode():
        assert torch.equal(*(model.logits(model.hidden(ids)) for model in (calibrated_model, rounded)))


def test_diagnostics_start_at_the_rounded_embedding(base: LoadedModel, ids: Tensor) -> None:
    """With full-precision blocks, the only error of block 0's output is the embedding's."""
    precision = Precision.parse("W16A16e3")
    frames = diagnose(base, precision, calibrated(base, str(precision)), ids)
    assert (frames["blocks"]["mse"] > 0).all()
    exact = replace(precision, embedding_bits=None, head_bits=3)
    frames = diagnose(base, exact, calibrated(base, str(exact)), ids)
    assert (frames["blocks"]["mse"] == 0).all()
