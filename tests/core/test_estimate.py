"""Estimates against what is really stored, their order, and refusals that say what would fit."""

import re
from pathlib import Path

import pytest

from abq_core.estimate import EstimateError, estimate
from abq_core.models import ModelShape, load_model, model_shape
from abq_core.precision import FULL, Precision
from abq_core.runtime import rounded_model, weight_bytes

_WIDTH, _INNER = 4096, 11008
LLAMA_7B = ModelShape(
    ref="llama-7b",
    family="llama",
    blocks=32,
    hidden=_WIDTH,
    heads=32,
    kv_heads=32,
    intermediate=_INNER,
    vocabulary=32000,
    context=2048,
    linears={
        **{f"self_attn.{n}_proj": (_WIDTH, _WIDTH) for n in "qkvo"},
        "mlp.gate_proj": (_INNER, _WIDTH),
        "mlp.up_proj": (_INNER, _WIDTH),
        "mlp.down_proj": (_WIDTH, _INNER),
    },
    parameters=6_738_415_616,
)


@pytest.mark.parametrize("precision", ["W8A8", "W4A4", "W2*A8", "W2A8g32", "W3A16", "W16A8", "FP16"])
def test_sizes_are_those_of_the_model_as_stored(tiny_llama: Path, precision: str) -> None:
    parsed = Precision.parse(precision)
    shape, base = model_shape(str(tiny_llama)), load_model(str(tiny_llama))
    found = estimate(shape, parsed)
    stored = weight_bytes(base if parsed.is_full else rounded_model(base, parsed, "simulated"))
    rest = found.full_bytes - weight_bytes(base)
    assert found.quantized_bytes == rest + stored
    assert found.full_bytes == 2 * sum(p.numel() for p in base.model.parameters())
    assert found.ratio == pytest.approx(found.full_bytes / found.quantized_bytes)
    assert found.linears_ratio == pytest.approx(weight_bytes(base) / stored)


def test_known_sizes() -> None:
    starred, plain = (estimate(LLAMA_7B, Precision.parse(p)) for p in ("W2*A8", "W8A8"))
    assert plain.linears_ratio / starred.linears_ratio == pytest.approx(3 / 8, rel=0.01)
    assert estimate(LLAMA_7B, FULL).ratio == 1
    assert 13.4e9 < plain.full_bytes < 13.5e9


def test_more_work_takes_more() -> None:
    precision = Precision.parse("W4A4")
    small = estimate(LLAMA_7B, precision, segments=8, seq_len=256, epochs=5)
    for larger in (
        estimate(LLAMA_7B, precision, segments=128, seq_len=256, epochs=5),
        estimate(LLAMA_7B, precision, segments=8, seq_len=2048, epochs=5),
    ):
        assert larger.seconds > small.seconds and larger.peak_memory_bytes >= small.peak_memory_bytes
    assert estimate(LLAMA_7B, precision, segments=8, seq_len=256, epochs=0).seconds < small.seconds
    assert small.peak_memory_bytes > 4 * LLAMA_7B.parameters


def test_what_fits_is_not_refused() -> None:
    found = estimate(LLAMA_7B, Precision.parse("W4A4"))
    found.refuse(found.peak_memory_bytes, found.run_bytes)


def test_a_refusal_names_settings_that_fit() -> None:
    precision = Precision.parse("W4A4")
    found = estimate(LLAMA_7B, precision, segments=128, seq_len=2048)
    minimum = estimate(LLAMA_7B, precision, segments=1, seq_len=8).peak_memory_bytes
    fewer = (found.peak_memory_bytes + estimate(LLAMA_7B, precision, 1, 2048).peak_memory_bytes) // 2
    with pytest.raises(EstimateError, match=r"at most .* segments of 2048") as caught:
        found.refuse(fewer, 10**15)
    segments = int(re.findall(r"at most (\d+) segments", str(caught.value))[0])
    estimate(LLAMA_7B, precision, segments, 2048).refuse(fewer, 10**15)
    with pytest.raises(EstimateError):
        estimate(LLAMA_7B, precision, segments + 1, 2048).refuse(fewer, 10**15)
    with pytest.raises(EstimateError, match="too large for this machine"):
        found.refuse(minimum // 2, 10**15)


def test_a_full_disk_is_named() -> None:
    found = estimate(LLAMA_7B, Precision.parse("W4A4"))
    with pytest.raises(EstimateError, match=r"GiB on disk and 100 MiB are free"):
        found.refuse(10**15, 100 << 20)


def test_the_end_to_end_pass_takes_more_memory_and_time_and_can_be_left_away() -> None:
    shape = model_shape("builtin")
    alone, together = (estimate(shape, Precision(2, 8), end_to_end_segments=count) for count in (0, 1024))
    assert together.peak_memory_bytes > alone.peak_memory_bytes and together.seconds > alone.seconds
    with pytest.raises(EstimateError, match="end_to_end=false"):
        together.refuse(alone.peak_memory_bytes, 1 << 40)
