"""Models in 16 bits and the INT8 baseline.

Dtypes, what is replaced, and that the original is not modified.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from decoder_cases import PROMPT, load_families

from abq_core.inference.int8_linear import Int8Linear
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import rounded_model, weight_bytes
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.modules import StoredEmbedding
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import linears_of


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> LoadedModel:
    return load_families(("llama",), tmp_path_factory.mktemp("models"), tiny_llama)["llama"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_change_dtype_and_buffers_do_not(llama: LoadedModel, dtype: torch.dtype) -> None:
    placed = to_device(llama, "cpu", dtype)
    assert {parameter.dtype for parameter in placed.model.parameters()} == {dtype}
    assert placed.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert {parameter.dtype for parameter in llama.model.parameters()} == {torch.float32}


def test_a_packed_model_in_16_bits_has_torchs_own_embedding(llama: LoadedModel) -> None:
    base = to_device(llama, "cpu", torch.bfloat16)
    base = replace(base, model=base.model.float())  # values that bfloat16 holds, as in most checkpoints
    packed = rounded_model(base, Precision.parse("W4A8"), "packed")
    assert isinstance(packed.model.get_input_embeddings(), StoredEmbedding)
    half = to_device(packed, "cpu", torch.float16)
    assert packed.decoder is not None and half.decoder is None  # the CPU decoder is compiled for float32
    assert type(half.model.get_input_embeddings()) is torch.nn.Embedding
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        logits, expected = (model.logits(model.hidden(ids)) for model in (half, packed))
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.2)


def test_int8_replaces_the_linears_that_quantization_replaces(llama: LoadedModel) -> None:
    eight = to_int8(llama)
    replaced = [module for module in eight.model.modules() if isinstance(module, Int8Linear)]
    originals = [linear for block in blocks_of(llama.model) for linear in linears_of(block).values()]
    assert len(replaced) == len(originals) == 2 * 7
    assert not any(isinstance(module, Int8Linear) for module in llama.model.modules())
    weights, rows = (sum(sizes) for sizes in zip(*((m.codes.numel(), m.out_features) for m in replaced), strict=True))
    assert weight_bytes(llama) == 2 * weights and weight_bytes(eight) == weights + 4 * rows
