"""Estimates against stored sizes, their order, and refusals with advice that fits."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from family_cases import family_folder

from abq_core.calibration.rotation import starting_model
from abq_core.inference.runtime import rounded_model, weight_bytes
from abq_core.models.loading import load_model
from abq_core.models.shape import ModelShape, model_shape
from abq_core.planning.cost import Work
from abq_core.planning.estimate import Available, Estimate, EstimateError, estimate
from abq_core.planning.size import bits_per_parameter, model_size
from abq_core.precision import FULL, Precision, PrecisionError
from abq_core.spec import METHODS, CalibrationSpec

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
BLOCK_7B = sum(rows * columns for rows, columns in LLAMA_7B.linears.values())
LLAMA_70B = replace(
    LLAMA_7B,
    ref="llama-70b",
    blocks=80,
    hidden=8192,
    heads=64,
    kv_heads=8,
    intermediate=28672,
    linears={
        **{f"self_attn.{n}_proj": (8192, 8192) for n in "qo"},
        **{f"self_attn.{n}_proj": (1024, 8192) for n in "kv"},
        **{f"mlp.{n}_proj": (28672, 8192) for n in ("gate", "up")},
        "mlp.down_proj": (8192, 28672),
    },
    parameters=68_976_648_192,
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


@pytest.mark.parametrize("precision", ["W4A8h8e8", "W2*A8h4", "W4A8e3", "W16A16h8", "W4A8"])
@pytest.mark.parametrize("family", ["llama", "opt"])  # two tables, and a tied one
def test_bits_per_parameter_count_everything_that_is_stored(
    family: str, precision: str, tiny_llama: Path, tiny_opt: Path
) -> None:
    folder = str(tiny_llama if family == "llama" else tiny_opt)
    shape, base, parsed = model_shape(folder), load_model(folder), Precision.parse(precision)
    assert shape.tied == (family == "opt") and shape.table == (300, 64)
    simulated = rounded_model(base, parsed, "simulated")
    tables = {id(t): t for t in (base.model.get_input_embeddings().weight, base.model.get_output_embeddings().weight)}
    other = sum(p.numel() for p in base.model.parameters()) - weight_bytes(base) // 2 - len(tables) * 300 * 64
    bits = {
        "llama": (parsed.embedding_bits, parsed.head_bits),
        "opt": (parsed.embedding_bits or parsed.head_bits,),
    }[family]
    stored = sum(300 * 64 * 2 if b is None else 300 * 64 * b // 8 + 300 * 5 for b in bits)
    size = model_size(shape, parsed)
    assert (size.linears, size.embedding + size.head, size.other) == (weight_bytes(simulated), stored, 2 * other)
    expected = 8 * (weight_bytes(simulated) + stored + 2 * other) / shape.parameters
    assert bits_per_parameter(shape, parsed) == estimate(shape, parsed).bits_per_parameter == pytest.approx(expected)


def test_a_tied_table_has_one_number(tiny_opt: Path) -> None:
    with pytest.raises(PrecisionError, match="one table"):
        estimate(model_shape(str(tiny_opt)), Precision.parse("W4A8h8e4"))


def test_a_folded_rotation_makes_two_tables_of_a_tied_one(tmp_path: Path, tiny_llama: Path) -> None:
    folder = str(family_folder("gemma", tmp_path / "gemma", tiny_llama))
    shape, base, precision = model_shape(folder), load_model(folder), Precision.parse("W4A8h8e8")
    spec = CalibrationSpec(folder, precision, "rtn", replace(METHODS["rtn"], rotation=True))
    plain, rotated = (estimate(shape, precision, Work(switches=s)) for s in (METHODS["rtn"], spec.active_switches))
    assert rotated.size.head == rotated.size.embedding == plain.size.embedding and plain.size.head == 0
    assert rotated.size.other == plain.size.other and rotated.size.parameters == plain.size.parameters
    model = starting_model(base, spec)[0].model
    assert sum(p.numel() for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)) == (
        2 * shape.table[0] * shape.table[1]
    )
    many = replace(shape, vocabulary=2_000_000)
    plain, rotated = (estimate(many, precision, Work(switches=s)) for s in (METHODS["rtn"], spec.active_switches))
    assert rotated.peak_memory_bytes >= plain.peak_memory_bytes + 2 * 2_000_000 * 64 * 4
    together = Work(switches=METHODS["abq+"], end_to_end_segments=8, device="cuda")
    turned = replace(together, switches=replace(together.switches, rotation=True))
    plain, rotated = (estimate(LLAMA_7B, precision, work) for work in (together, turned))
    assert rotated.device_memory_bytes >= plain.device_memory_bytes + 2 * 32000 * _WIDTH * 4


def test_full_precision_has_16_bits_per_parameter(tiny_opt: Path) -> None:
    assert bits_per_parameter(model_shape(str(tiny_opt)), FULL) == bits_per_parameter(LLAMA_7B, FULL) == 16


def test_rounded_tables_take_memory() -> None:
    plain, head, both = (
        estimate(LLAMA_7B, Precision.parse(p)).peak_memory_bytes for p in ("W4A8", "W4A8h8", "W4A8h8e8")
    )
    assert plain <= head <= both


def test_known_sizes() -> None:
    starred, plain = (estimate(LLAMA_7B, Precision.parse(p)) for p in ("W2*A8", "W8A8"))
    assert plain.linears_ratio / starred.linears_ratio == pytest.approx(3 / 8, rel=0.01)
    assert estimate(LLAMA_7B, FULL).ratio == 1
    assert 13.4e9 < plain.full_bytes < 13.5e9


SPEC = CalibrationSpec("llama-7b", Precision.parse("W4A4"), data="text.txt", segments=128, seq_len=2048)
PLENTY = 1 << 50


def of(spec: CalibrationSpec, **changes: Any) -> Estimate:
    """The estimate of a calibration of LLAMA_7B; `home` is where the model is."""
    home = changes.pop("home", "cpu")
    changed = replace(spec, **changes)
    return estimate(LLAMA_7B, changed.precision, Work.of(changed, home=home))


def test_more_work_takes_more() -> None:
    small = of(SPEC, segments=8, seq_len=256, epochs=5)
    for larger in (of(SPEC, segments=128, seq_len=256, epochs=5), of(SPEC, segments=8, seq_len=2048, epochs=5)):
        assert larger.seconds > small.seconds and larger.peak_memory_bytes >= small.peak_memory_bytes
    assert of(SPEC, segments=8, seq_len=256, epochs=0).seconds < small.seconds
    assert small.peak_memory_bytes < 8 << 30, "the model stays in its files"


def test_methods_cost_what_their_parts_do() -> None:
    rtn, omniquant, abq, plus = (
        of(SPEC, method=method, device="cuda") for method in METHODS if method != "smoothquant"
    )
    per_head = of(SPEC, switches=replace(METHODS["abq"], akl_per_head=True), device="cuda")
    memory = [one.device_memory_bytes for one in (rtn, omniquant, abq, per_head, plus)]
    assert memory == sorted(memory) and len(set(memory)) == len(memory)
    assert rtn.seconds < omniquant.seconds < abq.seconds
    assert plus.run_bytes > abq.run_bytes  # drafts: an offset for every weight
    alone = of(SPEC, method="abq+", switches=replace(METHODS["abq+"], end_to_end=False))
    assert alone.run_bytes == abq.run_bytes and alone.seconds < plus.seconds
    free = of(SPEC, method="abq+", switches=replace(METHODS["abq+"], block_targets=False), device="cuda")
    assert free.device_memory_bytes < plus.device_memory_bytes and free.seconds < plus.seconds
    unmixed = of(SPEC, method="abq+", switches=replace(METHODS["abq+"], hadamard=False), device="cuda")
    assert unmixed.seconds < plus.seconds


def test_a_7b_model_fits_24_gib_if_its_blocks_move() -> None:
    moved = of(SPEC, device="cuda")
    moved.refuse(Available(PLENTY, PLENTY, 24 << 30))
    assert moved.device_memory_bytes < 16 << 30
    assert moved.peak_memory_bytes < 8 << 30, "the model stays in its files on the host"
    with pytest.raises(EstimateError, match=r"memory of cuda \(24.0 GiB free\).*ABQ_DEVICE=cpu"):
        of(SPEC, device="cuda", home="cuda").refuse(Available(PLENTY, PLENTY, 24 << 30))


def test_an_end_to_end_pass_that_does_not_fit_can_be_switched_off() -> None:
    plus = of(SPEC, method="abq+", device="cuda")
    with pytest.raises(
        EstimateError, match=r"GiB of memory of cuda.*Switch off the end-to-end pass .*=false\)"
    ) as caught:
        plus.refuse(Available(PLENTY, PLENTY, 24 << 30))
    assert f"{plus.device_memory_bytes / 2**30:.1f} GiB" in str(caught.value)
    with pytest.raises(EstimateError, match=r"ABQ_DEVICE=cpu.*Switch off the end-to-end pass"):
        of(SPEC, method="abq+", device="cuda", home="cuda").refuse(Available(PLENTY, PLENTY, 24 << 30))
    alone = replace(METHODS["abq+"], end_to_end=False)
    of(SPEC, method="abq+", switches=alone, device="cuda").refuse(Available(PLENTY, PLENTY, 24 << 30))


def test_large_models_fit_small_machines() -> None:
    """128 segments of 2,048 tokens: the hidden states are in files, and a few blocks in memory."""
    for shape, limit in ((LLAMA_7B, 16 << 30), (LLAMA_70B, 48 << 30)):
        for method in ("rtn", "smoothquant", "omniquant", "abq"):
            found = estimate(shape, SPEC.precision, Work.of(replace(SPEC, method=method)))
            assert found.peak_memory_bytes < limit, method
            states = 128 * 2048 * shape.hidden * 4
            assert found.temporary_bytes == (4 if found.work.epochs else 2) * states
    deeper = replace(LLAMA_7B, blocks=64, parameters=LLAMA_7B.parameters + 32 * BLOCK_7B)
    same, deep = (estimate(shape, SPEC.precision, Work.of(SPEC)).peak_memory_bytes for shape in (LLAMA_7B, deeper))
    assert same == deep, "memory does not depend on the depth"


def test_few_segments_are_in_memory() -> None:
    small = of(SPEC, segments=8, seq_len=256)
    assert small.temporary_bytes == 0
    assert small.peak_memory_bytes > of(SPEC, segments=1, seq_len=256).peak_memory_bytes


def test_a_calibration_that_fits_is_not_refused() -> None:
    found = of(SPEC)
    on_disk = found.run_bytes + found.temporary_bytes
    found.refuse(Available(found.peak_memory_bytes, on_disk))
    for less in (Available(found.peak_memory_bytes - 1, PLENTY), Available(PLENTY, on_disk - 1)):
        with pytest.raises(EstimateError):
            found.refuse(less)


def test_a_refusal_names_settings_that_fit() -> None:
    found = of(SPEC, segments=1024)
    fewer = Available(PLENTY, found.run_bytes + found.temporary_bytes // 2)
    with pytest.raises(EstimateError, match=r"at most .* segments of 2048") as caught:
        found.refuse(fewer)
    segments = int(re.findall(r"at most (\d+) segments", str(caught.value))[0])
    of(SPEC, segments=segments).refuse(fewer)
    with pytest.raises(EstimateError):
        of(SPEC, segments=segments + 1).refuse(fewer)
    with pytest.raises(EstimateError, match="too large for this machine"):
        found.refuse(Available(1 << 30, PLENTY))


def test_a_full_disk_is_named() -> None:
    with pytest.raises(EstimateError, match=r"GiB of disk \(100 MiB free\).*ABQ_DATA_DIR"):
        of(SPEC).refuse(Available(PLENTY, 100 << 20))
    plus = of(SPEC, method="abq+")
    with pytest.raises(EstimateError, match=r"end_to_end=false"):
        plus.refuse(Available(PLENTY, plus.run_bytes - 1))
