"""Experts split into linears compute what the fused module computes, on the same memory."""

import pytest
import torch
from family_cases import family_model
from torch import nn

from abq_core.models.architectures import blocks_of
from abq_core.models.experts import Expert, Experts, SharedExpertGate, split_experts
from abq_core.quantization.quant_linear import linears_of

MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")


@pytest.mark.parametrize("case", MIXTURES)
def test_outputs_stay_the_same(case: str) -> None:
    model = family_model(case)
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    expected = model(ids).logits
    split_experts(model)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", MIXTURES)
def test_every_expert_has_three_linears_and_the_routers_have_none(case: str) -> None:
    model = family_model(case)
    split_experts(model)
    linears = linears_of(blocks_of(model)[1])
    assert {f"mlp.experts.{n}.{part}_proj" for n in range(4) for part in ("gate", "up", "down")} <= linears.keys()
    assert not {"mlp.gate", "mlp.shared_expert_gate"} & linears.keys()
    if case == "qwen2_moe":
        assert isinstance(blocks_of(model)[1].mlp.shared_expert_gate, SharedExpertGate)


def test_the_linears_share_the_memory_of_the_fused_weights() -> None:
    model = family_model("mixtral")
    fused = blocks_of(model)[0].mlp.experts
    gate_up, down = fused.gate_up_proj, fused.down_proj
    split = Experts.from_fused(fused)
    assert split[2].gate_proj.weight.data_ptr() == gate_up[2].data_ptr()
    assert split[2].up_proj.weight.data_ptr() == gate_up[2, 96:].data_ptr()
    assert split[2].down_proj.weight.data_ptr() == down[2].data_ptr()


def test_an_expert_without_tokens_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Experts.from_fused(blocks_of(family_model("mixtral"))[0].mlp.experts)
    calls: list[int] = []
    forward = Expert.forward

    def counted(self: Expert, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Expert, "forward", counted)
    index = torch.tensor([[0, 2], [2, 0], [2, 3]])
    output = split(torch.randn(3, 64), index, torch.full((3, 2), 0.5))
    assert output.shape == (3, 64) and sorted(calls) == [1, 2, 3]


def test_a_dense_model_is_left_alone() -> None:
    model = family_model("llama")
    before = dict(model.named_modules())
    split_experts(model)
    assert all(module is before[name] for name, module in model.named_modules())
    assert isinstance(blocks_of(model)[0].mlp.up_proj, nn.Linear)
