"""The first blocks that two calibrations have in common."""

from dataclasses import replace
from typing import Any

import pytest

from abq_core.mix import MixedLinear, PrecisionMix
from abq_core.planning.shared_prefix import shared_blocks
from abq_core.precision import Precision
from abq_core.spec import METHODS, CalibrationSpec


def mix(*blocks: str) -> PrecisionMix:
    """A mix with one precision per block."""
    return PrecisionMix(
        tuple(
            MixedLinear(block, name, Precision.parse(precision), 64)
            for block, precision in enumerate(blocks)
            for name in ("up", "down")
        )
    )


def at(precision: str) -> CalibrationSpec:
    return replace(SPEC, precision=Precision.parse(precision))


SPEC = CalibrationSpec("tiny", mix("W4A8", "W2A8"), data="text.txt", segments=2, seq_len=32, epochs=2)


def test_the_prefix_ends_at_the_first_block_whose_precision_differs() -> None:
    assert shared_blocks(SPEC, SPEC, 2) == 2
    assert shared_blocks(SPEC, at("W4A8"), 2) == shared_blocks(at("W4A8"), SPEC, 2) == 1
    assert shared_blocks(SPEC, at("W2A8"), 2) == 0
    assert shared_blocks(SPEC, replace(SPEC, precision=mix("W4A8", "W3A8")), 2) == 1
    assert shared_blocks(at("W4A8"), at("W4A8"), 2) == 2
    assert shared_blocks(at("W4A8"), at("W4A8"), 0) == 0


@pytest.mark.parametrize(("one", "other"), [("W4A8", "W4A4"), ("W4A8kv4", "W4A8"), ("W4A8kv4", "W4A8kv8")])
def test_activations_and_kv_bits_must_be_the_same(one: str, other: str) -> None:
    assert shared_blocks(at(one), at(other), 2) == 0


def test_the_name_of_the_method_does_not_matter_but_its_switches_do() -> None:
    written_out = replace(SPEC, method="rtn", switches=METHODS["abq"])
    assert written_out != SPEC and shared_blocks(SPEC, written_out, 2) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"segments": 3},
        {"seq_len": 16},
        {"epochs": 3},
        {"method": "omniquant"},
        {"data": "builtin"},
        {"model": "other"},
        {"device": "cuda"},
        {"switches": replace(METHODS["abq"], akl=False)},
    ],
)
def test_nothing_is_shared_if_anything_else_differs(change: dict[str, Any]) -> None:
    assert shared_blocks(SPEC, replace(SPEC, **change), 2) == 0


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("W4A8", "W4A8h8", 2),
        ("W4A8h8", "W4A8h4", 2),
        ("W4A8e8", "W4A8h8e8", 2),
        ("W4A8", "W4A8e8", 0),
        ("W4A8h8e8", "W4A8h8e6", 0),
        ("W2A8h8", "W4A8h8", 0),
    ],
)
def test_blocks_depend_on_the_embedding_and_not_on_the_lm_head(one: str, other: str, shared: int) -> None:
    assert shared_blocks(at(one), at(other), 2) == shared
    together = (replace(at(precision), method="abq+") for precision in (one, other))
    assert shared_blocks(*together, 2) == shared
    mixed = replace(SPEC, precision=mix("W4A8", "W2A8").with_tables(8, None))
    assert shared_blocks(SPEC, mixed, 2) == 2 and shared_blocks(mixed, at("W4A8h4"), 2) == 1


def test_nothing_is_shared_with_an_end_to_end_pass() -> None:
    together = replace(SPEC, method="abq+")
    assert together.learns_end_to_end and shared_blocks(together, together, 2) == 0
