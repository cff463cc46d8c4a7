"""Rotations that are folded into the weights: the same function for every family that can have them."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_cases import CONFIGS, ONE_EACH, family_folder
from torch import Tensor, nn

import abq_core as abq
from abq_core.analysis.diagnostics import diagnose
from abq_core.calibration import rotation
from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.calibration.compact_block import compact_block, whole_block
from abq_core.calibration.rotation import Rotation, check_rotation, starting_model
from abq_core.inference.runtime import quantized_model, streamed_model
from abq_core.models.architectures import FOLDS_ROTATIONS
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.shape import has_tied_tables
from abq_core.precision import Precision
from abq_core.quantization.exact_dtype import narrowest
from abq_core.spec import METHODS, CalibrationSpec, SpecError

ROTATED = replace(METHODS["rtn"], rotation=True)
CASES = [case for case in CONFIGS if CONFIGS[case]().model_type in FOLDS_ROTATIONS]


def spec_of(model: str, precision: str = "W8A8", **settings: object) -> CalibrationSpec:
    given = {"method": "rtn", "switches": ROTATED, "segments": 4, "seq_len": 32, **settings}
    return CalibrationSpec(model, Precision.parse(precision), **given)  # type: ignore[arg-type]


def logits_of(model: LoadedModel) -> Tensor:
    ids = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.logits(model.hidden(ids))


@pytest.mark.parametrize("k", [1, 6, 9, 64, 96, 512, 576])
def test_a_rotation_is_orthogonal(k: int) -> None:
    matrix = Rotation.of(k, torch.device("cpu"))(torch.eye(k))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(k), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [64, 576])
def test_a_rotation_spreads_each_channel_over_all(k: int) -> None:
    matrix = Rotation.of(k, torch.device("cpu"))(torch.eye(k))
    assert matrix.abs().max() < 1.5 / k**0.5


@pytest.mark.parametrize("case", CASES)
def test_a_rotated_model_is_the_same_function(
    case: str, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rounding of its tables to 16 bits, which these tiny models amplify."""
    monkeypatch.setattr(rotation, "_in_16_bits", lambda table: nn.Parameter(table, requires_grad=False))
    base = load_model(str(family_folder(case, tmp_path / case, tiny_llama)))
    rotated, _ = starting_model(base, spec_of(base.ref))
    expected = logits_of(base)
    torch.testing.assert_close(logits_of(rotated), expected, atol=2e-4 * float(expected.abs().max()), rtol=0)
    with base.block(0) as before, rotated.block(0) as after:
        for name, parameter in before.named_parameters():
            if parameter.ndim > 1:
                assert not torch.allclose(parameter, after.get_parameter(name)), name
    assert not torch.equal(base.model.get_input_embeddings().weight, rotated.model.get_input_embeddings().weight)


def test_products_in_bfloat16_do_not_reach_the_weights(base: LoadedModel) -> None:
    """Blocks are made in the middle of the end-to-end pass, which multiplies in bfloat16."""
    rotated, _ = starting_model(base, spec_of(base.ref))
    with rotated.block(1) as expected, torch.autocast("cpu", torch.bfloat16), rotated.block(1) as found:
        for name, parameter in expected.named_parameters():
            assert torch.equal(parameter, found.get_parameter(name)), name


@pytest.mark.parametrize("case", CASES)
def test_a_calibration_of_a_rotated_model_is_near_full_precision(case: str, tmp_path: Path, tiny_llama: Path) -> None:
    """Blocks, tables and final norm are in one basis: in two, the logits would have nothing in common."""
    base = load_model(str(family_folder(case, tmp_path / case, tiny_llama)))
    spec, store = spec_of(base.ref, "W8A16h8e8"), MemoryStore()
    calibrate(base, spec, store)
    start, precision = starting_model(base, spec)
    expected = logits_of(base)
    for engine in ("simulated", "packed"):
        found = logits_of(quantized_model(start, precision, store, engine))  # type: ignore[arg-type]
        assert (found - expected).abs().mean() < 0.05 * expected.abs().mean(), engine
    torch.testing.assert_close(
        logits_of(streamed_model(start, precision, store)),
        logits_of(quantized_model(start, precision, store, "simulated")),
    )


@pytest.mark.parametrize("case", [case for case in ONE_EACH if CONFIGS[case]().model_type not in FOLDS_ROTATIONS])
def test_other_families_are_refused_by_name(case: str, tmp_path: Path, tiny_llama: Path) -> None:
    base = load_model(str(family_folder(case, tmp_path / case, tiny_llama)))
    with pytest.raises(SpecError, match=f"'{case}'.*rotation=false"):
        calibrate(base, spec_of(base.ref), MemoryStore())
    check_rotation(spec_of(base.ref, switches=METHODS["rtn"]), case)


def test_a_tied_table_becomes_two_with_the_bits_of_the_one(tmp_path: Path, tiny_llama: Path) -> None:
    base = load_model(str(family_folder("gemma", tmp_path / "gemma", tiny_llama)))
    rotated, precision = starting_model(base, spec_of(base.ref, "W4A8h6"))
    assert has_tied_tables(base.model) and base.model.config.tie_word_embeddings
    assert not has_tied_tables(rotated.model) and not rotated.model.config.tie_word_embeddings
    assert str(precision) == "W4A8h6e6"
    for table in (rotated.model.get_input_embeddings().weight, rotated.model.get_output_embeddings().weight):
        assert narrowest(table).dtype == torch.float16


def test_a_table_that_float16_cannot_hold_is_bfloat16(base: LoadedModel) -> None:
    large = replace(base, model=copy.deepcopy(base.model))
    large.model.get_input_embeddings().weight.data.mul_(1e7)
    rotated, _ = starting_model(large, spec_of(base.ref))
    table = rotated.model.get_input_embeddings().weight
    assert table.isfinite().all() and narrowest(table).dtype == torch.bfloat16


def test_a_mapped_model_gives_the_same_blocks(tiny_llama: Path, tmp_path: Path) -> None:
    """A checkpoint in 16 bits that stays in its files; it is not changed."""
    model = load_model(str(tiny_llama)).model.bfloat16()
    model.save_pretrained(tmp_path)
    for file in tiny_llama.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = (tmp_path / "model.safetensors").read_bytes()
    spec, stores = spec_of(str(tmp_path), "W4A8h4"), []
    for mapped_bytes in (0, 1 << 30):
        base = load_model(str(tmp_path), mapped_bytes=mapped_bytes)
        assert (base.weights is None) == bool(mapped_bytes)
        stores.append(MemoryStore())
        calibrate(base, spec, stores[-1])
    for index in range(2):
        mapped, loaded = (store.blocks[index] for store in stores)
        assert mapped.keys() == loaded.keys() and all(torch.equal(mapped[name], loaded[name]) for name in mapped)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("method", ["abq", "abq+"])
def test_learning_resumes_bit_for_bit(method: str, base: LoadedModel) -> None:
    switches = replace(METHODS[method], rotation=True, hadamard=False)
    spec = spec_of(
        base.ref,
        "W4A4",
        method=method,
        switches=switches,
        epochs=1,
        end_to_end_segments=4 if method == "abq+" else None,
    )
    whole, resumed = MemoryStore(), MemoryStore()
    calibrate(base, spec, whole)
    if method == "abq":
        resumed.blocks[0] = whole.blocks[0]
    calibrate(base, spec, resumed)
    for index in range(2):
        for name, tensor in whole.blocks[index].items():
            assert torch.equal(tensor, resumed.blocks[index][name]), name
    start, precision = starting_model(base, spec)
    frames = diagnose(start, precision, whole, torch.arange(32).unsqueeze(0))
    assert frames["blocks"]["snr_db"].min() > 0
    compact = compact_block(start, spec, 1, whole.blocks[1])
    restored = whole_block(start, spec, 1, compact)
    assert all(torch.equal(tensor, restored[name]) for name, tensor in whole.blocks[1].items())


def test_the_python_interface_returns_a_model_in_one_basis(base: LoadedModel) -> None:
    model = abq.calibrate(base, "W8A8h8", "rtn", switches={"rotation": True}, segments=2, seq_len=16)
    expected = logits_of(base)
    assert (logits_of(model) - expected).abs().mean() < 0.1 * expected.abs().mean()
