"""Mixes: reading, writing, naming, checks, and models with a mix on both engines."""

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abq_core.analysis.diagnostics import diagnose
from abq_core.analysis.explore import explore
from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.events import Event
from abq_core.inference.runtime import quantized_model, rounded_model, weight_bytes
from abq_core.mix import MixedLinear, MixError, PrecisionMix, is_mix_name, precision_name, resolve_tables
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.shape import model_shape
from abq_core.planning.estimate import estimate
from abq_core.precision import Precision, PrecisionError
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear, linears_of
from abq_core.spec import CalibrationSpec, SpecError, read_precision
from abq_core.text.segments import segments

NAMES = st.from_regex(r"[a-z_]{1,8}(\.[a-z_0-9]{1,8}){0,2}", fullmatch=True)


def weight_precisions(act_bits: int, kv_bits: int | None) -> st.SearchStrategy[Precision]:
    quantized = st.builds(
        Precision,
        weight_bits=st.integers(1, 8),
        act_bits=st.just(act_bits),
        balanced=st.booleans(),
        group_size=st.sampled_from([None, 32, 128]),
        kv_bits=st.just(kv_bits),
    )
    return quantized | st.just(Precision(16, act_bits, kv_bits=kv_bits))


@st.composite
def mixes(draw: st.DrawFn) -> PrecisionMix:
    act_bits, kv_bits = draw(st.sampled_from([4, 8, 16])), draw(st.none() | st.integers(1, 8))
    keys = draw(st.lists(st.tuples(st.integers(0, 40), NAMES), min_size=1, max_size=8, unique=True))
    weights = st.integers(1, 2**40)
    tables = st.none() | st.integers(2, 8)
    return PrecisionMix(
        tuple(MixedLinear(*key, draw(weight_precisions(act_bits, kv_bits)), draw(weights)) for key in keys),
        draw(tables),
        draw(tables),
    )


@settings(max_examples=50, deadline=None)
@given(mixes())
def test_a_mix_survives_json_whatever_its_order(mix: PrecisionMix) -> None:
    text = json.dumps(mix.to_dict(), sort_keys=True)
    again = PrecisionMix.from_dict(json.loads(text))
    assert again == mix and hash(again) == hash(mix) and str(again) == str(mix)
    assert PrecisionMix(tuple(reversed(mix.linears)), mix.head_bits, mix.embedding_bits) == mix
    assert is_mix_name(str(mix)) and precision_name(f" {mix} ") == str(mix)
    low, high = (pick(one.precision.stored_bits for one in mix.linears) for pick in (min, max))
    assert low - 1e-9 <= mix.stored_bits <= high + 1e-9


@settings(max_examples=50, deadline=None)
@given(mixes())
def test_a_calibration_of_a_mix_is_read_back_equal(mix: PrecisionMix) -> None:
    if mix.is_full:
        with pytest.raises(SpecError, match="quantizes nothing"):
            CalibrationSpec("builtin", mix)
        return
    spec = CalibrationSpec("builtin", mix, "omniquant", seed=3)
    data = json.loads(json.dumps(spec.to_dict(), sort_keys=True))
    assert isinstance(data["precision"], str) and CalibrationSpec.from_dict(data) == spec
    assert f"--precision {mix}" in spec.command_line()


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_anything_else_is_a_named_error(data: object) -> None:
    with pytest.raises(PrecisionError):
        PrecisionMix.from_dict(data)


def test_the_name_tells_one_assignment_from_another() -> None:
    first, second = mix_of("W2A8", "W4A8"), mix_of("W4A8", "W2A8")
    assert str(first) != str(second) and first.stored_bits == second.stored_bits == 3
    assert str(first).startswith("W3A8mix-")
    assert not is_mix_name("W2A8") and precision_name("w2*a8") == "W2*A8"
    with pytest.raises(MixError, match="one of them was changed"):
        read_precision({"precision": str(first), "mix": second.to_dict()})
    assert read_precision({"precision": "W2A8"}) == Precision.parse("W2A8")


def test_bits_are_means_over_weights() -> None:
    mix = PrecisionMix(
        (MixedLinear(0, "small", Precision.parse("W4A8"), 1), MixedLinear(0, "large", Precision.parse("W2*A8"), 3))
    )
    assert mix.stored_bits == (4 + 3 * 3) / 4
    assert mix.information_bits == pytest.approx((4 + 3 * math.log2(5)) / 4)
    assert (mix.act_bits, mix.kv_bits, mix.quantizes_weights, mix.is_full) == (8, None, True, False)
    assert mix.bit_operations == (4 * 8 + 3 * 3 * 8) / 4


def test_activation_bits_may_differ() -> None:
    mix = PrecisionMix(
        (MixedLinear(0, "small", Precision.parse("W4A16"), 1), MixedLinear(0, "large", Precision.parse("W2A4"), 3))
    )
    assert (mix.act_bits, mix.bit_operations) == ((16 + 3 * 4) / 4, (4 * 16 + 3 * 2 * 4) / 4)
    assert mix.quantizes_activations and str(mix).startswith("W2.5A7mix-") and is_mix_name(str(mix))
    assert PrecisionMix.from_dict(mix.to_dict()) == mix
    third = mix_of("W2A8", "W2A4", "W2A4")
    assert str(third).startswith("W2A5.33mix-") and is_mix_name(str(third))
    assert not mix_of("W4A16", "W2A16").quantizes_activations


@pytest.mark.parametrize(
    ("linears", "said"),
    [
        ((), "no linear"),
        ((("0", "W2A8"), ("0", "W3A8")), "more than once"),
        ((("0", "W2A8kv4"), ("1", "W2A8")), "KV bits"),
    ],
)
def test_an_invalid_mix_is_refused(linears: tuple[tuple[str, str], ...], said: str) -> None:
    with pytest.raises(MixError, match=said):
        PrecisionMix(tuple(MixedLinear(int(block), "q", Precision.parse(text), 64) for block, text in linears))


def mix_of(*texts: str) -> PrecisionMix:
    return PrecisionMix(tuple(MixedLinear(i, "q", Precision.parse(text), 64) for i, text in enumerate(texts)))


# On a model


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(words.choice(("import", "def", "return", "the", "list", "of")) for _ in range(20_000)))
    return str(path)


def spread(base: LoadedModel, texts: tuple[str, ...]) -> PrecisionMix:
    """A mix that assigns these precisions to the model's linears in turn."""
    linears = [
        (block, name, linear)
        for block, module in enumerate(blocks_of(base.model))
        for name, linear in linears_of(module).items()
    ]
    return PrecisionMix(
        tuple(
            MixedLinear(block, name, Precision.parse(texts[i % len(texts)]), linear.weight.numel())
            for i, (block, name, linear) in enumerate(linears)
        )
    )


def mixed_spec(base: LoadedModel, text: str, method: str, *texts: str) -> CalibrationSpec:
    spec = CalibrationSpec(base.ref, spread(base, texts), method, data=text, segments=4, seq_len=32, epochs=2)
    return dataclasses.replace(spec, end_to_end_segments=32)


MIXED = ("W2A8", "W2*A8", "W4A8g32", "W16A8", "W3A8", "W3A4")


class _Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["rtn", "abq", "abq+"])
def test_a_resumed_mix_equals_an_uninterrupted_one(base: LoadedModel, text: str, method: str) -> None:
    spec = mixed_spec(base, text, method, *MIXED)
    whole, store = MemoryStore(), MemoryStore()
    events: list[Event] = []
    calibrate(base, spec, whole, events.append)
    left = iter(range(2 * len(events) // 3))

    def stop(event: Event) -> None:
        if next(left, None) is None:
            raise _Stop

    with pytest.raises(_Stop):
        calibrate(base, spec, store, stop)
    calibrate(base, spec, store)
    for index, tensors in whole.blocks.items():
        assert tensors.keys() == store.blocks[index].keys()
        assert all(torch.equal(tensors[name], store.blocks[index][name]) for name in tensors)


def test_a_mix_of_one_precision_is_that_precision(base: LoadedModel, text: str) -> None:
    same = mixed_spec(base, text, "abq", "W2*A8")
    uniform = dataclasses.replace(same, precision=Precision.parse("W2*A8"))
    one, other = MemoryStore(), MemoryStore()
    calibrate(base, same, one)
    calibrate(base, uniform, other)
    assert all(torch.equal(t, other.blocks[index][name]) for index in (0, 1) for name, t in one.blocks[index].items())


def test_packed_and_simulated_mixes_give_the_same_logits(base: LoadedModel, text: str) -> None:
    ids = segments(text, base.tokenizer, 2, 24, 0, "evaluation")
    spec, store = mixed_spec(base, text, "abq", *MIXED), MemoryStore()
    calibrate(base, spec, store)
    packed = quantized_model(base, spec.precision, store, "packed")
    simulated = quantized_model(base, spec.precision, store, "simulated")
    expected, actual = simulated.model(ids).logits, packed.model(ids).logits
    assert (expected - actual).abs().median() < 1e-5 * expected.abs().max()
    planes = [module.packed.planes for module in packed.model.modules() if isinstance(module, PackedLinear)]
    act_bits = {m.act_bits for m in packed.model.modules() if isinstance(m, PackedLinear)}
    assert act_bits == {4, 8} == {m.act_bits for m in simulated.model.modules() if isinstance(m, QuantLinear)}
    linears = sum(len(linears_of(block)) for block in blocks_of(base.model))
    assert 0 < len(planes) < linears  # W16 linears stay as they are
    assert weight_bytes(packed) < weight_bytes(base)


def test_the_size_of_a_mix_is_known_from_shapes(base: LoadedModel) -> None:
    mix = spread(base, MIXED)
    foreseen = estimate(model_shape(base.ref), mix)
    rest = estimate(model_shape(base.ref), Precision.parse("W16A8"))
    made = weight_bytes(rounded_model(base, mix, "simulated"))
    assert foreseen.quantized_bytes - made == rest.quantized_bytes - weight_bytes(base)


def test_a_mix_of_another_model_is_refused(base: LoadedModel) -> None:
    mix = spread(base, MIXED)
    fewer = PrecisionMix(mix.linears[1:])
    resized = PrecisionMix((dataclasses.replace(mix.linears[0], weights=7), *mix.linears[1:]))
    for wrong in (fewer, resized, mix_of("W2A8")):
        with pytest.raises(MixError, match="another model"):
            estimate(model_shape(base.ref), wrong)
    with pytest.raises(MixError, match="another model"):
        rounded_model(base, fewer, "simulated")


def test_exploring_and_diagnosing_know_each_linear_s_levels(base: LoadedModel, text: str) -> None:
    mix = spread(base, MIXED)
    levels = explore(base, mix)["levels"]
    spec, store = mixed_spec(base, text, "rtn", *MIXED), MemoryStore()
    calibrate(base, spec, store)
    frames = diagnose(base, mix, store, segments(text, base.tokenizer, 2, 24, 0, "evaluation"))
    for frame, lens in ((levels, "rounded"), (frames["levels"], "corrected")):
        counts = dict.fromkeys(MIXED, 0)
        for one in mix.linears:
            own = frame[frame["block"].eq(one.block) & frame["tensor"].eq(one.name) & frame["lens"].eq(lens)]
            counts[str(one.precision)] = max(counts[str(one.precision)], len(own))
        assert 0 == counts["W16A8"] < counts["W2A8"] < counts["W3A8"] < counts["W4A8g32"]


def test_a_mix_has_bits_of_its_tables() -> None:
    linear = MixedLinear(0, "up", Precision.parse("W4A8"), 64)
    plain = PrecisionMix((linear,))
    mix = plain.with_tables(8, 6)
    assert str(plain).startswith("W4A8mix-") and str(mix).startswith("W4A8h8e6mix-")
    assert mix.of_linear(0, "up") == linear.precision and mix.to_dict()["head_bits"] == 8
    assert not PrecisionMix((MixedLinear(0, "up", Precision.parse("W16A16"), 64),), head_bits=8).is_full
    with pytest.raises(MixError, match="belong to the mix"):
        PrecisionMix((MixedLinear(0, "up", Precision.parse("W4A8h8"), 64),))
    for wrong in ("8", 1, 2.5, True):
        with pytest.raises(PrecisionError):
            PrecisionMix.from_dict(plain.to_dict() | {"embedding_bits": wrong})


def test_the_name_and_content_of_a_mix_without_table_bits_are_those_of_earlier_versions() -> None:
    mix = PrecisionMix(
        (MixedLinear(0, "up", Precision.parse("W4A8"), 64), MixedLinear(0, "down", Precision.parse("W2A8"), 64))
    )
    assert str(mix) == "W3A8mix-687634"
    assert mix.to_dict() == {
        "0.down": {"precision": "W2A8", "weights": 64},
        "0.up": {"precision": "W4A8", "weights": 64},
    }


@pytest.mark.parametrize("text", ["W4A8h8", "W4A8e8", "W4A8h8e8"])
def test_one_number_holds_for_tied_tables(text: str) -> None:
    precision = Precision.parse(text)
    assert str(resolve_tables(precision, tied=True)) == "W4A8h8e8"
    assert resolve_tables(precision, tied=False) == precision


def test_two_numbers_for_tied_tables_are_refused() -> None:
    precision = Precision.parse("W4A8h8e4")
    assert resolve_tables(precision, tied=False) == precision
    with pytest.raises(
        PrecisionError, match=r"W4A8h8e4 has 8 bits for the LM head and 4 .* give one number, such as h8"
    ):
        resolve_tables(precision, tied=True)
