"""The cost model: work of a calibration, and the effect of single switches."""

from dataclasses import replace

import pytest

from abq_core.methods import METHODS, Switches
from abq_core.models.gguf.weights import StoredWeights
from abq_core.models.shape import ModelShape
from abq_core.planning.cost import Work, disk, memory, seconds
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec

SHAPE = ModelShape(
    ref="small",
    family="llama",
    blocks=4,
    hidden=256,
    heads=4,
    kv_heads=4,
    intermediate=512,
    vocabulary=1000,
    context=512,
    linears={"up": (512, 256), "down": (256, 512)},
    parameters=2_000_000,
)
PACKED = 1 << 20
SPEC = CalibrationSpec("small", Precision.parse("W4A4"), segments=16, seq_len=128)


def test_work_follows_from_the_spec() -> None:
    work = Work.of(SPEC)
    assert (work.segments, work.seq_len, work.epochs, work.end_to_end_segments) == (16, 128, 20, 0)
    assert work.switches == METHODS["abq"] and work.diagnosed == (8, 128)
    assert Work.of(replace(SPEC, method="rtn")).epochs == 0
    plus = Work.of(replace(SPEC, method="abq+"))
    assert (plus.epochs, plus.end_to_end_segments, plus.stores_drafts) == (10, 1024, True)
    assert not Work.of(replace(SPEC, method="abq+", epochs=0)).stores_drafts


def test_the_transform_costs_nothing_without_quantized_activations() -> None:
    weights_only = replace(SPEC, method="abq+", precision=Precision.parse("W4A16"))
    assert not Work.of(weights_only).switches.hadamard and Work.of(replace(SPEC, method="abq+")).switches.hadamard


@pytest.mark.parametrize(
    ("device", "home", "moves"), [("cpu", "cpu", False), ("cuda", "cpu", True), ("cuda:1", "cuda:0", False)]
)
def test_blocks_move_between_kinds_of_devices(device: str, home: str, moves: bool) -> None:
    work = Work(device=device, home=home)
    assert work.moves is moves
    assert (memory(SHAPE, work, PACKED).device > 0) == (moves or home != "cpu")


def with_switch(**changes: object) -> Work:
    return Work(switches=replace(METHODS["abq"], **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"rounding": True}, {"clip_search": True}, {"hadamard": True}])
def test_switches_that_add_work_per_weight_add_time(change: dict[str, bool]) -> None:
    assert seconds(SHAPE, with_switch(**change)) > seconds(SHAPE, with_switch())


@pytest.mark.parametrize("change", [{"rounding": True}, {"akl_per_head": True}])
def test_switches_that_hold_tensors_add_memory(change: dict[str, bool]) -> None:
    work, changed = (replace(with_switch(**changes), device="cuda") for changes in ({}, change))
    assert memory(SHAPE, changed, PACKED).device > memory(SHAPE, work, PACKED).device


def test_maps_per_head_cost_nothing_if_maps_are_not_compared() -> None:
    off: list[Switches] = [with_switch(akl=False, akl_per_head=value).switches for value in (False, True)]
    assert len({memory(SHAPE, Work(switches=switches), PACKED) for switches in off}) == 1


def test_an_end_to_end_pass_adds_time_memory_and_drafts_on_the_disk() -> None:
    plus = Work.of(replace(SPEC, method="abq+"))
    alone = replace(plus, end_to_end_segments=0)
    assert seconds(SHAPE, plus) > seconds(SHAPE, alone)
    on_device, alone_on_device = (replace(work, device="cuda") for work in (plus, alone))
    assert memory(SHAPE, on_device, PACKED).device > memory(SHAPE, alone_on_device, PACKED).device
    weights = SHAPE.blocks * 2 * 512 * 256
    assert disk(SHAPE, plus, PACKED) - disk(SHAPE, alone, PACKED) == 2 * weights - PACKED
    untargeted = replace(plus, switches=replace(plus.switches, block_targets=False))
    assert seconds(SHAPE, untargeted) < seconds(SHAPE, plus)


def test_a_gguf_file_is_in_memory_in_float32() -> None:
    mapped = replace(SHAPE, parameters=200_000_000)
    dequantized = replace(mapped, stored=StoredWeights(("Q4_K",), 4.5, True))
    work = Work.of(replace(SPEC, method="rtn"))
    more = memory(dequantized, work, PACKED).host - memory(mapped, work, PACKED).host
    assert more > 300_000_000
