"""Models with a quantized embedding and LM head: both engines, every family, tied and not."""

from pathlib import Path

import pytest
import torch
from decoder_cases import FOLLOWING, ON_A_GRAPH, PROMPT, by_decoder, by_modules
from family_cases import ONE_EACH, family_folder

from abq_core.inference.cpu_decoder import CpuDecoder
from abq_core.inference.generate import Token, generate
from abq_core.inference.graph_decoder import GraphDecoder
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.placement import to_device
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.mapped.modules import StoredEmbedding, StoredLinear
from abq_core.precision import Precision, PrecisionError
from abq_core.quantization.lm_head import PackedHead, QuantHead
from abq_core.quantization.tables import PackedEmbedding, rounded_table

IDS = torch.arange(20, 45).view(1, -1)


def at(base: LoadedModel, precision: str, engine: str = "packed") -> LoadedModel:
    return rounded_model(base, Precision.parse(precision), engine)  # type: ignore[arg-type]


def hidden(model: LoadedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model.hidden(ids)


def logits(model: LoadedModel, of: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(of)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> LoadedModel:
    return load_model(str(family_folder("llama", tmp_path_factory.mktemp("untied") / "llama", tiny_llama)))


@pytest.fixture(scope="module")
def tied(tiny_opt: Path) -> LoadedModel:
    return load_model(str(tiny_opt))


@pytest.mark.parametrize("case", ONE_EACH)
def test_every_family_runs_with_few_bits_in_both_tables(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    base = load_model(str(family_folder(case, tmp_path, tiny_llama)))
    before = logits(base, hidden(base))
    simulated, packed = (at(base, "W16A16h6e6", engine) for engine in ("simulated", "packed"))
    expected = hidden(simulated)
    torch.testing.assert_close(hidden(packed), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    scores = logits(simulated, expected)
    torch.testing.assert_close(logits(packed, expected), scores, rtol=1e-4, atol=1e-4 * float(scores.abs().max()))
    assert not torch.equal(scores, before)
    assert torch.equal(logits(base, hidden(base)), before), "the base is not changed"
    assert packed.vocabulary == simulated.vocabulary == base.vocabulary


def test_each_table_has_its_own_bits(untied: LoadedModel) -> None:
    embedding, head = untied.model.get_input_embeddings(), untied.model.get_output_embeddings()
    model = at(untied, "W16A16h8", "simulated").model
    assert torch.equal(model.get_input_embeddings().weight, embedding.weight)
    assert torch.equal(model.get_output_embeddings().weight, rounded_table(head.weight, 8))
    model = at(untied, "W16A16e3", "simulated").model
    assert torch.equal(model.get_input_embeddings().weight, rounded_table(embedding.weight, 3))
    assert torch.equal(model.get_output_embeddings().weight, head.weight)


@pytest.mark.parametrize("precision", ["W4A8h6", "W4A8e6", "W4A8h6e6"])
def test_a_tied_table_is_stored_once(precision: str, tied: LoadedModel) -> None:
    packed, simulated = at(tied, precision), at(tied, precision, "simulated")
    assert str(packed.precision) == str(simulated.precision) == "W4A8h6e6"
    embedding, head = packed.model.get_input_embeddings(), packed.model.get_output_embeddings()
    assert isinstance(embedding, PackedEmbedding) and isinstance(head, PackedHead)
    assert embedding.packed is head.packed
    rounded = simulated.model.get_output_embeddings()
    assert isinstance(rounded, QuantHead) and rounded.weight is simulated.model.get_input_embeddings().weight
    copy = to_device(packed, "cpu", torch.bfloat16).model
    assert copy.get_input_embeddings().packed is copy.get_output_embeddings().packed


def test_two_numbers_for_a_tied_table_are_refused(tied: LoadedModel) -> None:
    with pytest.raises(PrecisionError, match="one table"):
        at(tied, "W4A8h8e4")


def test_a_table_that_stays_at_16_bits_is_kept_in_bfloat16(untied: LoadedModel) -> None:
    exact = to_device(to_device(untied, "cpu", torch.bfloat16), "cpu", torch.float32)
    head = at(exact, "W4A8e8").model.get_output_embeddings()
    assert isinstance(head, StoredLinear) and isinstance(
        at(exact, "W4A8e8").model.get_input_embeddings(), PackedEmbedding
    )
    model = at(exact, "W4A8h8").model
    assert isinstance(model.get_input_embeddings(), StoredEmbedding)
    assert isinstance(model.get_output_embeddings(), PackedHead)


@pytest.mark.parametrize("case", ON_A_GRAPH)
def test_both_decoders_look_up_packed_rows(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    base = load_model(str(family_folder(case, tmp_path, tiny_llama)))
    model = at(base, "W8A8h8e4")
    assert isinstance(model.decoder, CpuDecoder)
    for decoder in (model.decoder, GraphDecoder(model.model)):
        cache = PreallocatedCache(model.model.config, len(PROMPT) + len(FOLLOWING))
        expected = by_modules(model)
        found = by_decoder(model, decoder, cache)
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_model_keeps_packed_tables(dtype: torch.dtype, untied: LoadedModel) -> None:
    model = at(untied, "W16A16h8e8")
    half = to_device(model, "cpu", dtype)
    expected = hidden(model)
    assert hidden(half).dtype == dtype
    torch.testing.assert_close(hidden(half).float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    assert logits(half, hidden(half)).dtype == torch.float32


def test_text_is_generated_with_quantized_tables(tied: LoadedModel, untied: LoadedModel) -> None:
    for base in (tied, untied):
        texts = [
            [
                event.id
                for event in generate({"a": at(base, "W16A16h8e8", engine)}, base, "The module", 8)
                if isinstance(event, Token)
            ]
            for engine in ("simulated", "packed")
        ]
        assert texts[0] == texts[1] and texts[0]
