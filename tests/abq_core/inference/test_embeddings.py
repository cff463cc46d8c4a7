"""Embedding and LM head in bfloat16: only if no value changes, with the same logits."""

import copy
from pathlib import Path

import pytest
import torch
from family_cases import family_folder

from abq_core.inference.embeddings import embeddings_to_bfloat16
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.mapped.modules import StoredEmbedding, StoredLinear

IDS = torch.arange(20, 45).view(1, -1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> LoadedModel:
    return load_model(str(family_folder("llama", tmp_path_factory.mktemp("tables") / "llama", tiny_llama)))


def in_bfloat16(loaded: LoadedModel, tied: bool) -> LoadedModel:
    """The model with an embedding and an LM head whose values bfloat16 represents exactly."""
    model = copy.deepcopy(loaded.model)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.weight.copy_(table.weight.bfloat16())
    if tied:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    return LoadedModel(loaded.ref, model, loaded.tokenizer, loaded.precision)


@pytest.mark.parametrize("tied", [False, True])
def test_half_the_memory_and_the_same_logits(llama: LoadedModel, tied: bool) -> None:
    loaded = in_bfloat16(llama, tied)
    with torch.inference_mode():
        expected = loaded.logits(loaded.hidden(IDS))
        embeddings_to_bfloat16(loaded.model)
        embedding, head = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
        assert isinstance(embedding, StoredEmbedding) and isinstance(head, StoredLinear)
        assert embedding.weight.dtype == head.weight.dtype == torch.bfloat16
        assert (embedding.weight is head.weight) == tied
        hidden = loaded.hidden(IDS)
        torch.testing.assert_close(loaded.logits(hidden), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loaded.logits(hidden[0, -1]), expected[0, -1], rtol=1e-5, atol=1e-5)
    assert loaded.vocabulary == llama.vocabulary


def test_values_that_bfloat16_cannot_hold_stay_in_float32(llama: LoadedModel) -> None:
    loaded = in_bfloat16(llama, tied=False)
    head = loaded.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[3, 5] = 1 + 2**-12
    embeddings_to_bfloat16(loaded.model)
    assert loaded.model.get_output_embeddings() is head and head.weight.dtype == torch.float32
    assert type(loaded.model.get_input_embeddings()) is torch.nn.Embedding


def test_an_lm_head_with_a_bias_stays(llama: LoadedModel) -> None:
    loaded = in_bfloat16(llama, tied=False)
    head = loaded.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(len(head.weight)), requires_grad=False)
    embeddings_to_bfloat16(loaded.model)
    assert loaded.model.get_output_embeddings() is head
