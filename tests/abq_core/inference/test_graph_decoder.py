"""The decode step of a GPU, run as it is on the CPU: what transformers' modules compute, whatever the linears are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_cases import DECODED, FOLLOWING, PROMPT
from family_cases import family_folder
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import DynamicCache

from abq_core.inference.decoder import decoder_of
from abq_core.inference.embeddings import Bfloat16Embedding
from abq_core.inference.generate import Token, generate
from abq_core.inference.graph_decoder import BUCKET, GraphDecoder, bucket_of, has_fixed_rope
from abq_core.inference.int8_linear import Int8Linear
from abq_core.inference.kv_cache import CacheFullError, PreallocatedCache
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import rounded_model, weight_bytes
from abq_core.models.architectures import blocks_of
from abq_core.models.attention import set_kv_bits
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.quantizers import fake_quant_activation


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, LoadedModel]:
    root = tmp_path_factory.mktemp("decoded")
    return {case: load_model(str(family_folder(case, root / case, tiny_llama))) for case in DECODED}


def by_modules(model: LoadedModel, following: list[int] = FOLLOWING) -> Tensor:
    """Hidden states of the tokens after the prompt, by transformers' modules and its own cache."""
    cache = DynamicCache(config=model.model.config)
    with torch.inference_mode():
        model.hidden(torch.tensor([PROMPT]), cache)
        return torch.cat([model.hidden(torch.tensor([[token]]), cache)[0] for token in following])


def by_steps(model: LoadedModel, cache: PreallocatedCache, following: list[int] = FOLLOWING) -> Tensor:
    """The same by the decoder of a GPU, after a prompt that the modules read."""
    decoder = GraphDecoder(model.model)
    with torch.inference_mode():
        model.hidden(torch.tensor([PROMPT]), cache)
        return torch.stack([decoder.hidden(token, cache) for token in following])


def assert_same(model: LoadedModel, tolerance: float = 1e-4, capacity: int = len(PROMPT) + len(FOLLOWING)) -> None:
    """Hidden states are close, and the likeliest tokens the same, but for those that rounding makes alike."""
    expected = by_modules(model)
    found = by_steps(model, PreallocatedCache(model.model.config, capacity))
    assert found.dtype == expected.dtype
    size = float(expected.float().abs().max())
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * size)
    with torch.inference_mode():
        logits, chosen = model.logits(expected), model.logits(found).argmax(-1, keepdim=True)
    regret = logits.amax(-1) - logits.gather(-1, chosen)[:, 0]
    assert regret.max() <= tolerance * logits.abs().max()


@pytest.mark.parametrize("capacity", [len(PROMPT) + len(FOLLOWING), 100])
@pytest.mark.parametrize("case", DECODED)
def test_it_computes_what_the_modules_do(case: str, capacity: int, models: dict[str, LoadedModel]) -> None:
    assert_same(models[case], capacity=capacity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", DECODED)
def test_in_16_bits(case: str, dtype: torch.dtype, models: dict[str, LoadedModel]) -> None:
    assert_same(to_device(models[case], "cpu", dtype), 0.02)


@pytest.mark.parametrize("case", DECODED)
def test_torchs_int8(case: str, models: dict[str, LoadedModel]) -> None:
    model = to_int8(models[case])
    assert sum(isinstance(module, Int8Linear) for module in model.model.modules()) == 2 * 7
    assert_same(model, 0.02)


@pytest.mark.parametrize("precision", ["W4A16", "W4A16kv8", "W4A16kv4", "W8A8", "W2*A8"])
@pytest.mark.parametrize("case", DECODED)
def test_packed_linears(case: str, precision: str, models: dict[str, LoadedModel]) -> None:
    assert_same(rounded_model(models[case], Precision.parse(precision), "packed"), 0.02)


def test_keys_and_values_are_rounded_as_the_modules_round_them(models: dict[str, LoadedModel]) -> None:
    plain, rounded = (rounded_model(models["llama"], Precision.parse(p), "packed") for p in ("W4A16", "W4A16kv2"))
    capacity = len(PROMPT) + len(FOLLOWING)
    caches = [PreallocatedCache(models["llama"].model.config, capacity) for _ in range(2)]
    exact, coarse = (by_steps(model, cache) for model, cache in zip((plain, rounded), caches, strict=True))
    assert (exact - coarse).abs().max() > 0.1
    assert caches[0].nbytes == caches[1].nbytes  # and take no less memory
    for layer in caches[1].layers:
        assert max(len(row.unique()) for row in layer.keys[0].flatten(0, 1)) <= 4


@pytest.mark.parametrize("kv", ["", "kv4"])
def test_modules_and_steps_in_turn(kv: str, models: dict[str, LoadedModel]) -> None:
    model = rounded_model(models["mistral"], Precision.parse(f"W4A16{kv}"), "packed")
    decoder, cache = GraphDecoder(model.model), PreallocatedCache(model.model.config, 100)
    expected = by_modules(model)[-1]
    with torch.inference_mode():
        for _ in range(2):  # a cache that was emptied is as good as a new one
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
        torch.testing.assert_close(found, by_modules(models[case], following), rtol=1e-4, atol=1e-4)


class Operations(TorchDispatchMode):
    """Everything that torch is asked to compute while it is open: name, shapes, and whatever else is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, object]] = []

    def __torch_dispatch__(self, call: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        plain = tree_map(lambda one: tuple(one.shape) if isinstance(one, Tensor) else one, (given, named))
        self.seen.append((call.overloadpacket.__name__, repr(plain)))
        return call(*given, **(named or {}))


@pytest.mark.parametrize("kind", ["fp16", "int8", "kv4"])
@pytest.mark.parametrize("case", DECODED)
def test_a_recording_would_hold_at_every_position(kind: str, case: str, models: dict[str, LoadedModel]) -> None:
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
            steps.append([one for one in operations.seen if one[0] != "fill_"])  # of token and position: no part of it
    assert len(steps[0]) > 50 and steps[0] == steps[1]
    waits = {"_local_scalar_dense", "nonzero", "lift_fresh", "lift_fresh_copy", "equal", "is_nonzero"}
    assert not waits & {name for name, _ in steps[0]}


def test_waiting_would_be_seen() -> None:
    x = torch.ones(3, dtype=torch.float16)
    for waiting in (lambda: float(x[0]), lambda: fake_quant_activation(x, 4), x.nonzero):
        with Operations() as operations:
            waiting()
        assert {"_local_scalar_dense", "nonzero", "lift_fresh"} & {name for name, _ in operations.seen}


def test_buckets() -> None:
    assert [bucket_of(filled, 1000) for filled in (1, BUCKET, BUCKET + 1, 999)] == [BUCKET, BUCKET, 2 * BUCKET, 1000]
    assert bucket_of(3, 10) == 10


def test_a_full_cache_is_refused_by_name(models: dict[str, LoadedModel]) -> None:
    capacity = len(PROMPT) + len(FOLLOWING)
    packed = rounded_model(models["llama"], Precision.parse("W4A8"), "packed")
    assert packed.decoder is not None
    for model, decoder in ((models["llama"], GraphDecoder(models["llama"].model)), (packed, packed.decoder)):
        cache = PreallocatedCache(model.model.config, capacity)
        with torch.inference_mode():
            model.hidden(torch.tensor([PROMPT]), cache)
            for token in FOLLOWING:
                decoder.hidden(token, cache)
            with pytest.raises(CacheFullError, match=f"made for {capacity} tokens"):
                decoder.hidden(1, cache)
        assert cache.get_seq_length() == capacity


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
def test_generation_takes_it(kind: str, models: dict[str, LoadedModel]) -> None:
    model = {
        "fp32": lambda: models["llama"],
        "bf16": lambda: to_device(models["llama"], "cpu", torch.bfloat16),
        "int8": lambda: to_int8(models["llama"]),
        "packed": lambda: rounded_model(models["llama"], Precision.parse("W4A16"), "packed"),
    }[kind]()

    def written(model: LoadedModel) -> list[int]:
        return [e.id for e in generate({"a": model}, None, "The module", 12) if isinstance(e, Token)]

    plain = written(replace(model, decoder=None))
    assert written(replace(model, decoder=GraphDecoder(model.model))) == plain and len(plain) > 1


def test_int8_holds_half_and_is_near(models: dict[str, LoadedModel]) -> None:
    full = models["llama-3.1"]
    eight = to_int8(full)
    weights = sum(m.codes.numel() for m in eight.model.modules() if isinstance(m, Int8Linear))
    rows = sum(m.out_features for m in eight.model.modules() if isinstance(m, Int8Linear))
    assert weight_bytes(full) == 2 * weights and weight_bytes(eight) == weights + 4 * rows
    linear = torch.nn.Linear(64, 48)
    x = torch.randn(2, 20, 64)
    torch.testing.assert_close(Int8Linear.round(linear)(x), linear(x), rtol=0, atol=0.05)
    nothing = Int8Linear.round(linear)(torch.zeros(1, 64))
    torch.testing.assert_close(nothing[0], linear.bias)


def test_a_packed_model_in_16_bits_has_torchs_own_tables(models: dict[str, LoadedModel]) -> None:
    base = to_device(models["llama"], "cpu", torch.bfloat16)
    base = replace(base, model=base.model.float())  # values that bfloat16 holds, as most models have them
    packed = rounded_model(base, Precision.parse("W4A8"), "packed")
    assert isinstance(packed.model.get_input_embeddings(), Bfloat16Embedding)
    half = to_device(packed, "cpu", torch.float16)
    assert packed.decoder is not None and half.decoder is None  # the CPU's is compiled for float32
    assert type(half.model.get_input_embeddings()) is torch.nn.Embedding
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        logits, expected = (model.logits(model.hidden(ids)) for model in (half, packed))
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.2)


def test_which_models_get_one(models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(decoder_of(model.model) is None for model in models.values())  # 16-bit on the CPU: through the modules
    base = models["llama"]
    cuda = property(lambda model: torch.device("cuda"))
    simulated = rounded_model(base, Precision.parse("W4A8"), "simulated")
    dynamic_rope = replace(base, model=load_model(base.ref).model)
    dynamic_rope.model.model.rotary_emb.rope_type = "dynamic"
    assert has_fixed_rope(base.model) and not has_fixed_rope(dynamic_rope.model)
    for model, found in ((base, GraphDecoder), (to_int8(base), GraphDecoder), (simulated, type(None))):
        with monkeypatch.context() as patched:
            patched.setattr(type(model.model), "device", cuda)
            patched.setattr("abq_core.inference.decoder.GraphDecoder", lambda model: GraphDecoder.__new__(GraphDecoder))
            assert type(decoder_of(model.model)) is found
            assert decoder_of(dynamic_rope.model) is None
