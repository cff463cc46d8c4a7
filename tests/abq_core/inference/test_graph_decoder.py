"""The GPU's decode step, run without a graph on the CPU.

It computes what transformers' modules do.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_cases import CAPACITY, FOLLOWING, ON_A_GRAPH, PROMPT, by_decoder, by_modules, load_families
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from abq_core.inference.generate import Token, generate
from abq_core.inference.graph_decoder import BUCKET, GraphDecoder, bucket_of, has_fixed_rope
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import rounded_model
from abq_core.models.architectures import blocks_of
from abq_core.models.attention.function import set_kv_bits
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.quantizers import fake_quant_activation


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, LoadedModel]:
    return load_families(ON_A_GRAPH, tmp_path_factory.mktemp("models"), tiny_llama)


def by_steps(model: LoadedModel, cache: PreallocatedCache, following: list[int] = FOLLOWING) -> Tensor:
    return by_decoder(model, GraphDecoder(model.model), cache, following)


def assert_same(model: LoadedModel, tolerance: float = 1e-4, capacity: int = CAPACITY) -> None:
    """Hidden states are close, and greedy tokens are the same up to near-ties."""
    expected = by_modules(model)
    found = by_steps(model, PreallocatedCache(model.model.config, capacity))
    assert found.dtype == expected.dtype
    size = float(expected.float().abs().max())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * size)
    with torch.inference_mode():
        logits, chosen = model.logits(expected), model.logits(found).argmax(-1, keepdim=True)
    regret = logits.amax(-1) - logits.gather(-1, chosen)[:, 0]
    assert regret.max() <= tolerance * logits.abs().max()


@pytest.mark.parametrize("capacity", [CAPACITY, 100])
@pytest.mark.parametrize("case", ON_A_GRAPH)
def test_hidden_states_equal_those_of_the_modules(case: str, capacity: int, models: dict[str, LoadedModel]) -> None:
    assert_same(models[case], capacity=capacity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ON_A_GRAPH)
def test_16_bit_models(case: str, dtype: torch.dtype, models: dict[str, LoadedModel]) -> None:
    assert_same(to_device(models[case], "cpu", dtype), 0.02)


@pytest.mark.parametrize("case", ON_A_GRAPH)
def test_int8_models(case: str, models: dict[str, LoadedModel]) -> None:
    assert_same(to_int8(models[case]), 0.02)


@pytest.mark.parametrize("precision", ["W4A16", "W4A16kv8", "W4A16kv4", "W8A8", "W2*A8"])
@pytest.mark.parametrize("case", ON_A_GRAPH)
def test_packed_models(case: str, precision: str, models: dict[str, LoadedModel]) -> None:
    assert_same(rounded_model(models[case], Precision.parse(precision), "packed"), 0.02)


def test_keys_and_values_are_quantized_in_the_cache(models: dict[str, LoadedModel]) -> None:
    plain, quantized = (rounded_model(models["llama"], Precision.parse(p), "packed") for p in ("W4A16", "W4A16kv2"))
    caches = [PreallocatedCache(models["llama"].model.config, CAPACITY) for _ in range(2)]
    exact, coarse = (by_steps(model, cache) for model, cache in zip((plain, quantized), caches, strict=True))
    assert (exact - coarse).abs().max() > 0.1
    assert caches[0].nbytes == caches[1].nbytes  # the values stay floats
    for layer in caches[1].layers:  # at most 4 levels per token and head
        assert all(len(row.unique()) <= 4 for row in layer.keys[0, :, : layer.length].flatten(0, 1))
        assert all(len(row.unique()) <= 4 for row in layer.values[0, :, : layer.length].flatten(0, 1))


@pytest.mark.parametrize("kv", ["", "kv4"])
def test_modules_and_steps_alternate_on_one_cache(kv: str, models: dict[str, LoadedModel]) -> None:
    model = rounded_model(models["mistral"], Precision.parse(f"W4A16{kv}"), "packed")
    decoder, cache = GraphDecoder(model.model), PreallocatedCache(model.model.config, 100)
    expected = by_modules(model)[-1]
    with torch.inference_mode():
        for _ in range(2):  # the second time on a cache that was reset
            cache.reset()
            model.hidden(torch.tensor([PROMPT]), cache)
            decoder.hidden(FOLLOWING[0], cache)
            model.hidden(torch.tensor([FOLLOWING[1:3]]), cache)
            found = [decoder.hidden(token, cache) for token in FOLLOWING[3:]]
            torch.testing.assert_close(found[-1], expected, rtol=1e-3, atol=1e-2)


def test_a_text_across_buckets(models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abq_core.inference.graph_decoder.BUCKET", 4)
    following = list(range(40, 80))
    for case in ("llama", "mistral"):
        cache = PreallocatedCache(models[case].model.config, len(PROMPT) + len(following))
        found = by_steps(models[case], cache, following)
        torch.testing.assert_close(found, by_modules(models[case], following=following), rtol=1e-4, atol=1e-4)


class Operations(TorchDispatchMode):
    """Records every torch operation: its name, the shapes of its tensors, and its other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, object]] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = tree_map(lambda one: tuple(one.shape) if isinstance(one, Tensor) else one, (args, kwargs))
        self.seen.append((call.overloadpacket.__name__, repr(plain)))
        return call(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["fp16", "int8", "kv4"])
@pytest.mark.parametrize("case", ON_A_GRAPH)
def test_a_step_does_not_depend_on_the_position_and_does_not_synchronize(
    kind: str, case: str, models: dict[str, LoadedModel]
) -> None:
    model = to_device(models[case], "cpu", torch.float16)
    model = to_int8(model) if kind == "int8" else model
    for block in blocks_of(model.model):
        set_kv_bits(block, 4 if kind == "kv4" else None)
    decoder, cache = GraphDecoder(model.model), PreallocatedCache(model.model.config, 100)
    steps = []
    with torch.inference_mode():
        model.hidden(torch.tensor([PROMPT]), cache)
        decoder.hidden(40, cache)
        for token in (41, 299):
            with Operations() as operations:
                decoder.hidden(token, cache)
            steps.append([one for one in operations.seen if one[0] != "fill_"])  # fills token and position, uncaptured
    assert len(steps[0]) > 50 and steps[0] == steps[1]
    synchronizing = {"_local_scalar_dense", "nonzero", "lift_fresh", "lift_fresh_copy", "equal", "is_nonzero"}
    assert not synchronizing & {name for name, _ in steps[0]}


def test_a_synchronization_would_be_recorded() -> None:
    x = torch.ones(3, dtype=torch.float16)
    for synchronize in (lambda: float(x[0]), lambda: fake_quant_activation(x, 4), x.nonzero):
        with Operations() as operations:
            synchronize()
        assert {"_local_scalar_dense", "nonzero", "lift_fresh"} & {name for name, _ in operations.seen}


def test_buckets() -> None:
    assert [bucket_of(filled, 1000) for filled in (1, BUCKET, BUCKET + 1, 999)] == [BUCKET, BUCKET, 2 * BUCKET, 1000]
    assert bucket_of(3, 10) == 10


def test_a_rope_that_depends_on_the_length_is_not_fixed(models: dict[str, LoadedModel]) -> None:
    assert all(has_fixed_rope(model.model) for model in models.values())
    dynamic = load_model(models["llama"].ref).model
    dynamic.model.rotary_emb.rope_type = "dynamic"
    assert not has_fixed_rope(dynamic)


def test_two_texts_at_once(models: dict[str, LoadedModel]) -> None:
    model = models["qwen2"]
    decoder, caches = GraphDecoder(model.model), [PreallocatedCache(model.model.config, 50) for _ in range(2)]
    expected = by_modules(model)
    with torch.inference_mode():
        for cache in caches:
            model.hidden(torch.tensor([PROMPT]), cache)
        found = [[decoder.hidden(token, cache) for cache in caches] for token in FOLLOWING]
    for pair, one in zip(found, expected, strict=True):
        assert torch.equal(*pair)
        torch.testing.assert_close(pair[0], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8", "packed"])
def test_generated_tokens_equal_those_of_the_modules(kind: str, models: dict[str, LoadedModel]) -> None:
    model = {
        "fp32": lambda: models["llama"],
        "bf16": lambda: to_device(models["llama"], "cpu", torch.bfloat16),
        "int8": lambda: to_int8(models["llama"]),
        "packed": lambda: rounded_model(models["llama"], Precision.parse("W4A16"), "packed"),
    }[kind]()

    def token_ids(model: LoadedModel) -> list[int]:
        return [event.id for event in generate({"a": model}, None, "The module", 12) if isinstance(event, Token)]

    plain = token_ids(replace(model, decoder=None))
    assert token_ids(replace(model, decoder=GraphDecoder(model.model))) == plain and len(plain) > 1
