"""The losses of Distribution Correction."""

import math

import pytest
import torch

from abq_core.calibration.losses import akl_loss, attention_kl, dlc_loss, head_mean, log_cosine, token_kl


def causal_maps(seed: int) -> torch.Tensor:
    scores = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, -torch.inf), -1)


def test_dlc_is_zero_for_equal_outputs_and_ignores_length() -> None:
    d = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0))
    assert float(dlc_loss(d, d, d)) == pytest.approx(0, abs=1e-6)
    assert float(dlc_loss(3 * d, d, d)) == pytest.approx(0, abs=1e-6)


def test_dlc_by_hand() -> None:
    quantized = torch.tensor([[[1.0, 0.0]]])
    full, full_on_quantized = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert float(dlc_loss(quantized, full, full_on_quantized)) == pytest.approx(-math.log(math.sqrt(0.5)), abs=1e-6)


def test_log_cosine_by_hand() -> None:
    a, b = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]])
    assert float(log_cosine(a, b)) == pytest.approx(-math.log((0.6 + 1) / 2), abs=1e-6)
    assert math.isfinite(float(log_cosine(a, -a)))  # opposite: the logarithm has a floor


def test_attention_kl_by_hand_counts_no_future() -> None:
    p = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    q = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    expected = (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert float(attention_kl(p, q)) == pytest.approx(expected, abs=1e-6)


def test_akl_is_symmetric_positive_and_zero_on_itself() -> None:
    p, q = causal_maps(1), causal_maps(2)
    assert float(akl_loss(p, p)) == pytest.approx(0, abs=1e-6)
    assert float(akl_loss(p, q)) == pytest.approx(float(akl_loss(q, p)))
    assert float(akl_loss(p, q)) > 0.01
    assert head_mean(p).shape == (1, 1, 5, 5)
    torch.testing.assert_close(head_mean(p).sum(-1), torch.ones(1, 1, 5))


def test_the_token_kl_has_the_value_and_gradient_of_torch_s() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, full = (3 * torch.randn(2, 5, 40, generator=generator, dtype=torch.float32) for _ in range(2))
    logits.requires_grad_()
    value = token_kl(logits, full)
    (gradient,) = torch.autograd.grad(2 * value, logits)
    learned, target = (torch.log_softmax(t.flatten(0, 1), -1) for t in (logits, full))
    expected = torch.nn.functional.kl_div(learned, target, reduction="batchmean", log_target=True)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(2 * expected, logits)[0])


def test_the_token_kl_is_zero_for_equal_logits_and_takes_16_bits() -> None:
    logits = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    value = token_kl(logits, logits.detach())
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16 and logits.grad.abs().max() < 1e-6
