"""Formats by simulation: the score of a model whose weights were rounded by hand."""

import copy

import pytest
import torch
from torch import Tensor

from abq_core.evaluation.level_set_cost import level_set_cost
from abq_core.evaluation.perplexity import evaluate
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.quantization.level_sets import formats
from abq_core.quantization.quant_linear import linears_of


def test_the_cost_is_that_of_the_rounded_model(base: LoadedModel, ids: Tensor) -> None:
    by_name = {one.name: one for one in formats()}
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    costs = {name: level_set_cost(base, by_name[name], 32, ids) for name in ("BitMoD 3", "NF4")}
    rounded = copy.deepcopy(base.model)
    with torch.no_grad():
        for block in blocks_of(rounded):
            for linear in linears_of(block).values():
                linear.weight.copy_(by_name["NF4"].round(linear.weight, 32, search=True).values)
    expected = evaluate(LoadedModel(base.ref, rounded, base.tokenizer, base.precision), base, ids)
    assert costs["NF4"].perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert costs["NF4"].kl_mean == pytest.approx(expected.kl_mean, rel=1e-4)
    assert 0 < costs["NF4"].kl_mean < costs["BitMoD 3"].kl_mean
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
