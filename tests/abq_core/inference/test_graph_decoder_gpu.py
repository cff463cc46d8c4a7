"""The decode step as a CUDA graph on a GPU.

Bit-identical to the step without a graph; text; memory.
"""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_cases import PROMPT
from family_cases import family_folder
from torch import Tensor

from abq_core.calibration.losses import kl_divergence
from abq_core.inference import graph_decoder
from abq_core.inference.generate import Token, generate
from abq_core.inference.graph_decoder import GraphDecoder
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.reference import BUILTIN
from abq_core.precision import Precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ON = "cuda:0"
PROMPT_TEXT = "The following functions are"


def column(base: LoadedModel, kind: str) -> LoadedModel:
    """A model on the GPU in float16 with the given kind of linears."""
    if kind in ("fp16", "int8"):
        half = to_device(base, ON, torch.float16)
        return half if kind == "fp16" else to_int8(half)
    return to_device(rounded_model(base, Precision.parse(kind), "packed"), ON, torch.float16)


def decoded(model: LoadedModel, tokens: list[int]) -> Tensor:
    """Hidden states of tokens after the prompt, by a new decoder."""
    decoder, cache = GraphDecoder(model.model), PreallocatedCache(model.model.config, len(PROMPT) + len(tokens))
    with torch.inference_mode():
        model.hidden(torch.tensor([PROMPT]), cache)
        return torch.stack([decoder.hidden(token, cache) for token in tokens])


@pytest.mark.parametrize("kind", ["fp16", "int8", "W2A8", "W2*A8", "W4A4", "W8A8", "W4A16", "W4A8kv4"])
@pytest.mark.parametrize("case", ["llama", "mistral", "qwen2"])
def test_a_replay_is_bit_identical_to_the_step(
    case: str, kind: str, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_model(str(family_folder(case, tmp_path / case, tiny_llama)))
    model, tokens = column(base, kind), list(range(40, 80))
    assert isinstance(model.decoder, GraphDecoder)
    monkeypatch.setattr(graph_decoder, "BUCKET", 32)  # two buckets, the second partly filled
    captured: list[Any] = []

    def counted(step: Any, device: Any, record: Any = graph_decoder._captured) -> Any:
        captured.append(step)
        return record(step, device)

    with monkeypatch.context() as patched:
        patched.setattr(graph_decoder, "_captured", counted)
        replayed = decoded(model, tokens)
    assert len(captured) == 2
    monkeypatch.setattr(graph_decoder, "_captured", lambda step, device: step)
    assert torch.equal(replayed, decoded(model, tokens))


def test_two_texts_have_separate_graphs(tiny_llama: Path) -> None:
    model = column(load_model(str(tiny_llama)), "W4A8")
    decoder = GraphDecoder(model.model)
    expected = decoded(model, [40, 41, 42, 43])
    caches = [PreallocatedCache(model.model.config, capacity) for capacity in (15, 60)]
    with torch.inference_mode():
        for cache in caches:
            model.hidden(torch.tensor([PROMPT]), cache)
        for token, one in zip([40, 41, 42, 43], expected, strict=True):
            for cache in caches:
                torch.testing.assert_close(decoder.hidden(token, cache), one, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", ["W8A8", "W4A8", "W2A8"])
def test_a_packed_model_agrees_with_its_simulation(precision: str) -> None:
    base = load_model(BUILTIN)
    packed = column(base, precision)
    simulated = to_device(rounded_model(base, Precision.parse(precision), "simulated"), ON, torch.float32)
    assert isinstance(packed.decoder, GraphDecoder) and simulated.decoder is None
    tokens = [e for e in generate({"packed": packed}, simulated, PROMPT_TEXT, 64) if isinstance(e, Token)]
    # not zero: float16 rounds some activations to a neighbouring code
    assert sum(token.kl or 0.0 for token in tokens) / len(tokens) < 0.02


def test_logits_equal_those_of_the_modules() -> None:
    full = column(load_model(BUILTIN), "fp16")

    def logits(model: LoadedModel) -> Tensor:
        cache = PreallocatedCache(model.model.config, 100)
        with torch.inference_mode():
            model.hidden(torch.tensor([PROMPT]), cache)
            if model.decoder is None:
                return model.logits(model.hidden(torch.tensor([[40]]), cache)[0, 0])
            return model.logits(model.decoder.hidden(40, cache))

    by_graph, by_modules = logits(full), logits(replace(full, decoder=None))
    assert kl_divergence(torch.log_softmax(by_modules, -1), torch.log_softmax(by_graph, -1)).item() < 1e-3


def test_packed_weights_take_less_memory_than_fp16() -> None:
    base, held = load_model(BUILTIN), {}
    for kind in ("fp16", "W2A8"):
        gc.collect()
        before = torch.cuda.memory_allocated()
        model = column(base, kind)
        held[kind] = torch.cuda.memory_allocated() - before
        del model
    tables = base.vocabulary * base.model.config.hidden_size * 2
    assert held["W2A8"] - tables < (held["fp16"] - tables) / 5
