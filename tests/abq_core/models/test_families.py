"""Every family end to end.

Loading, balance pairs, attention, calibration, the engine, text generation.
"""

import math
from pathlib import Path

import pytest
import torch
from family_cases import CONFIGS, FAMILIES, ONE_EACH, family_folder, family_model
from torch import Tensor
from transformers import AutoModelForCausalLM, StableLmConfig

from abq_core.analysis.diagnostics import diagnose
from abq_core.analysis.explore import explore
from abq_core.calibration.artifacts import BlockArtifact, MemoryStore
from abq_core.calibration.balance import Balance
from abq_core.calibration.block_inputs import block_output, capture_block_inputs, input_peaks
from abq_core.calibration.calibrate import calibrate
from abq_core.events import BlockDone, Event, Message
from abq_core.inference.generate import Token, generate
from abq_core.inference.runtime import quantized_model, rounded_model, weight_bytes
from abq_core.models.architectures import SUPPORTED_FAMILIES, architecture_of, blocks_of
from abq_core.models.attention.function import ATTENTION, attention_maps, set_kv_bits
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.shape import model_shape
from abq_core.planning.estimate import estimate
from abq_core.precision import FULL, Precision
from abq_core.quantization.quant_linear import linears_of
from abq_core.spec import CalibrationSpec
from abq_core.text.segments import segments

W4A4, W8A8 = Precision.parse("W4A4"), Precision.parse("W8A8")
PAIRS = {  # of the last block
    **dict.fromkeys(("llama", "llama-3.1", "mistral", "qwen2", "gemma", "gemma2", "phi3", "phi3-partial", "opt"), 5),
    **dict.fromkeys(("qwen3", "gemma3_text", "opt-gelu", "gpt_neox", "falcon-rw", "falcon-40b"), 4),
    **dict.fromkeys(("phi", "phi-normed", "opt-post-norm", "falcon", "falcon-11b"), 3),
    "gpt_neox-serial": 5,
    "mixtral": 8,
    "qwen2_moe": 9,
    "qwen3_moe": 7,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {case: family_folder(case, root / case, tiny_llama) for case in CONFIGS}


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(case: str, folders: dict[str, Path]) -> LoadedModel:
    return load_model(str(folders[case]))


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(2))


Run = tuple[MemoryStore, list[Event]]


def run(base: LoadedModel, method: str, data: Path, precision: Precision = W4A4) -> Run:
    store, events = MemoryStore(), []
    spec = CalibrationSpec("tiny", precision, method, data=str(data), segments=3, seq_len=20, epochs=8)
    calibrate(base, spec, store, events.append)
    return store, events


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "text.txt"
    file.write_text("\n\n".join(f"def read_{n}(path): return the {n * n}th line of the file. " * 6 for n in range(40)))
    return file


@pytest.fixture(scope="module")
def calibrated(base: LoadedModel, text: Path) -> Run:
    return run(base, "abq", text)


def errors(events: list[Event]) -> list[float]:
    return [event.distances["mse"] for event in events if isinstance(event, BlockDone)]


def test_the_supported_families_have_cases_and_are_documented() -> None:
    assert set(FAMILIES) == set(ONE_EACH) == SUPPORTED_FAMILIES
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    table = page.split("## Families")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name.strip("` ") for row in rows for name in row.split(",")) == FAMILIES


def test_a_loaded_model_computes_what_transformers_computes(case: str, base: LoadedModel, ids: Tensor) -> None:
    """Falcon with ALiBi is compared with sdpa: transformers' eager attention adds ALiBi twice."""
    stock = family_model(case, "sdpa" if case == "falcon-rw" else "eager")
    with torch.no_grad():
        expected, actual = stock(ids).logits, base.model(ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_shapes_and_sizes_are_those_of_the_loaded_model(base: LoadedModel) -> None:
    shape = model_shape(base.ref)
    assert shape.parameters == sum(p.numel() for p in base.model.parameters())
    for index, block in enumerate(blocks_of(base.model)):
        found = {name: (m.out_features, m.in_features) for name, m in linears_of(block).items()}
        assert shape.block_linears(index) == found
    stored = estimate(shape, W4A4)
    assert weight_bytes(rounded_model(base, W4A4, "simulated")) - weight_bytes(base) == (
        stored.quantized_bytes - stored.full_bytes
    )
    assert estimate(shape, FULL).ratio == 1


@torch.no_grad()
def test_folding_random_balance_leaves_the_logits_unchanged(case: str, base: LoadedModel, ids: Tensor) -> None:
    expected = base.model(ids).logits
    inputs = capture_block_inputs(base.model, ids)
    model = load_model(base.ref).model
    random = torch.Generator().manual_seed(1)
    for index, block in enumerate(blocks_of(model)):
        with input_peaks(block) as peaks:
            block_output(block(inputs.hidden[:1], **inputs.arguments[index]))
        balance = Balance(architecture_of(model), HeadLayout.of(model.config), block)
        parameters = dict(block.named_parameters())
        values = balance.start(parameters, peaks)
        assert all((s > 0).all() for s in values.values())
        values = {name: s * torch.rand(s.shape, generator=random).add(0.5) for name, s in values.items()}
        for name, folded in balance.fold(parameters, values).items():
            parameters[name].copy_(folded)
    assert len(values) == PAIRS[case]
    assert not torch.equal(model(ids).logits, expected)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_maps_and_kv_bits(base: LoadedModel, ids: Tensor) -> None:
    inputs = capture_block_inputs(base.model, ids[:1])
    heads = base.model.config.num_attention_heads
    for block, arguments in zip(blocks_of(base.model), inputs.arguments, strict=True):
        with attention_maps(block) as maps:
            full = block_output(block(inputs.hidden, **arguments))
        assert [m.shape for m in maps] == [(1, heads, 20, 20)]
        torch.testing.assert_close(maps[0].sum(-1), torch.ones(1, heads, 20))
        assert maps[0].triu(1).count_nonzero() == 0 and maps[0].tril(-1).count_nonzero() > 0
        set_kv_bits(block, 2)
        rough = block_output(block(inputs.hidden, **arguments))
        set_kv_bits(block, None)
        assert (rough - full).abs().max() > 1e-3
        torch.testing.assert_close(block_output(block(inputs.hidden, **arguments)), full, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ONE_EACH, indirect=True)
def test_calibration_lowers_the_error_of_rounding(base: LoadedModel, calibrated: Run, text: Path) -> None:
    _, rounded = run(base, "rtn", text)
    for corrected, plain in zip(errors(calibrated[1]), errors(rounded), strict=True):
        assert corrected < plain
    assert not any(isinstance(event, Message) for event in calibrated[1])


@pytest.mark.parametrize("case", ONE_EACH, indirect=True)
def test_the_engine_equals_the_simulated_model_and_writes_text(base: LoadedModel, calibrated: Run, ids: Tensor) -> None:
    models = {engine: quantized_model(base, W4A4, calibrated[0], engine) for engine in ("simulated", "packed")}
    expected, actual = (models[engine].model(ids).logits for engine in ("simulated", "packed"))
    assert (expected - actual).abs().median() < 1e-5 * expected.abs().max()
    tokens = [t for t in generate(models, base, "The module", max_new_tokens=2) if isinstance(t, Token)]
    assert {t.index for t in tokens if t.column == "packed"} == {0, 1}
    assert all(t.kl is not None and t.kl > 0 for t in tokens)


@pytest.mark.parametrize("case", ONE_EACH, indirect=True)
def test_diagnostics_and_explore_have_every_linear(base: LoadedModel, calibrated: Run, ids: Tensor) -> None:
    linears = {(i, name) for i, block in enumerate(blocks_of(base.model)) for name in linears_of(block)}
    for frames in (diagnose(base, W4A4, calibrated[0], ids), explore(base, W4A4)):
        assert set(zip(frames["linears"]["block"], frames["linears"]["tensor"], strict=True)) == linears


def test_an_expert_without_tokens_breaks_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    """A text of one repeated token: all positions are routed to the same two of four experts."""
    base = load_model(str(folders["qwen2_moe"]))
    one = tmp_path / "one.txt"
    one.write_text("x" * 2000)
    store, events = run(base, "abq", one, W8A8)
    assert len(errors(events)) == 2 and all(math.isfinite(error) for error in errors(events))
    learned = BlockArtifact.from_tensors(store.blocks[1]).learned
    pairs = [f"balance.mlp.experts.{n}.up_proj>mlp.experts.{n}.down_proj" for n in range(4)]
    unseen = [n for n, pair in enumerate(pairs) if torch.equal(learned[pair], torch.ones(32))]
    assert len(unseen) == 2
    frames = diagnose(base, W8A8, store, segments(str(one), base.tokenizer, 2, 20, 0, "calibration"))
    measured = frames["linears"].query("block == 1").groupby("tensor")["activation_snr_db"].count()
    assert [n for n in range(4) if measured[f"mlp.experts.{n}.down_proj"] == 0] == unseen


def test_a_family_outside_the_table_works_without_pairs_and_reports_it(folders: dict[str, Path], text: Path) -> None:
    llama = load_model(str(folders["llama"]))
    torch.manual_seed(0)
    config = StableLmConfig(**llama.model.config.to_dict() | {"model_type": "stablelm"})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).eval().requires_grad_(False)
    base = LoadedModel("stablelm", model, llama.tokenizer, FULL)
    store, events = run(base, "abq", text)
    assert [e.text for e in events if isinstance(e, Message)] == [
        "The family 'stablelm' has no known balance pairs: balancing is skipped."
    ]
    assert not any(name.startswith("balance") for name in BlockArtifact.from_tensors(store.blocks[0]).learned)
    assert errors(events)[-1] < errors(run(base, "rtn", text)[1])[-1]
