"""A run at fewer planes: the packed engine computes what the simulation does, and all planes are the run itself."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import calibrated
from torch import Tensor

from abq_core.calibration.artifacts import MemoryStore
from abq_core.evaluation.perplexity import evaluate
from abq_core.evaluation.plane_cost import artifact_reader, plane_continuation, plane_scores
from abq_core.inference.errors import PromptError
from abq_core.inference.runtime import model_of_artifacts, quantized_model, rounded_model
from abq_core.methods import METHODS
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.plane_reading import fewer_planes

W8 = Precision.parse("W8A8h8")
PROMPT = "the module"


@pytest.fixture(scope="module")
def store(base: LoadedModel) -> MemoryStore:
    return calibrated(base, str(W8))


def test_all_planes_are_the_run_and_fewer_are_further_away(base: LoadedModel, store: MemoryStore, ids: Tensor) -> None:
    reads = [plane_scores(base, W8, store, planes, ids) for planes in fewer_planes(W8)]
    run = evaluate(quantized_model(base, W8, store, "simulated"), base, ids)
    assert reads[0].scores == run
    kl = [read.scores.kl_mean for read in reads]
    assert kl == sorted(kl) and kl[-1] > 10 * kl[0]
    sizes = [read.weight_bytes for read in reads]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    w3 = next(read for read in reads if read.planes == 3)
    assert str(w3.precision) == "W3A8h8"
    nearest = evaluate(rounded_model(base, w3.precision, "simulated"), base, ids)
    assert w3.rounded.kl_mean == pytest.approx(nearest.kl_mean, rel=1e-5)


def test_a_nested_run_is_nearer_at_fewer_planes(base: LoadedModel, ids: Tensor) -> None:
    w4 = Precision.parse("W4A16")
    stores = [_nested(base, str(w4), nested) for nested in (False, True)]
    ordinary, nested = (plane_scores(base, w4, store, 2, ids).scores.kl_mean for store in stores)
    assert nested < ordinary


def test_without_fewer_planes_a_nested_run_is_an_ordinary_one(base: LoadedModel) -> None:
    ordinary, nested = (_nested(base, "W2*A8", nested).blocks for nested in (False, True))
    for index, tensors in ordinary.items():
        assert all(torch.equal(tensor, nested[index][name]) for name, tensor in tensors.items())


def _nested(base: LoadedModel, precision: str, nested: bool) -> MemoryStore:
    switches = replace(METHODS["abq+"], nested=nested)
    return calibrated(base, precision, method="abq+", switches=switches, epochs=2, end_to_end_segments=4)


def test_a_prompt_is_continued_and_one_that_is_empty_refused_first(base: LoadedModel, store: MemoryStore) -> None:
    for planes in fewer_planes(W8):
        written = plane_continuation(base, W8, store, planes, PROMPT, 4)
        assert written.text and written.tokens_per_second > 0
    with pytest.raises(PromptError):
        plane_continuation(base, W8, MemoryStore(), 4, "", 4)


@pytest.mark.parametrize("text", ["W8A8", "W4A8g32", "W6A16"])
@pytest.mark.parametrize("method", ["rtn", "abq+"])
def test_the_packed_engine_reads_the_same_planes(base: LoadedModel, ids: Tensor, text: str, method: str) -> None:
    precision = Precision.parse(text)
    store = calibrated(base, text, method=method, epochs=1, end_to_end_segments=4 if method == "abq+" else None)
    for planes in fewer_planes(precision):
        read = Precision(planes, precision.act_bits, group_size=precision.group_size)
        artifact_of = artifact_reader(store, precision.weight_bits - planes)
        packed, simulated = (model_of_artifacts(base, read, engine, artifact_of) for engine in ("packed", "simulated"))
        with torch.inference_mode():
            for part in (ids, ids[:1, :1]):
                expected = simulated.hidden(part)
                error = (packed.hidden(part) - expected).abs().max() / expected.abs().max()
                assert error < 0.02  # the packed model's embedding is in bfloat16
