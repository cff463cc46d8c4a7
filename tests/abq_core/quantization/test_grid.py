"""The fused loops of fake quantization against the same computation in tensor operations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from abq_core.precision import Precision
from abq_core.quantization import grid
from abq_core.quantization.quantizers import fake_quant_activation, fake_quant_weight
from abq_core.quantization.weight_grid import WeightGrid, affine_grid


def values(shape: tuple[int, ...], seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + shift


def in_double(x: Tensor) -> Tensor:
    """The same values in float64, which uses tensor operations."""
    return x.detach().double().requires_grad_(x.requires_grad)


def test_only_float32_on_the_cpu_uses_the_fused_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(grid._FusedFakeQuant, "apply", lambda x, *rest: taken.append(x.dtype) or x)
    fake_quant_activation(values((2, 8), 0), 4)
    fake_quant_activation(values((2, 8), 0).double(), 4)
    fake_quant_activation(values((0, 8), 0), 4)
    assert taken == [torch.float32]


@given(
    bits=st.integers(1, 8),
    kind=st.sampled_from(["", "*", "symmetric", "half_zero"]),
    group=st.sampled_from([None, 32, 64]),
    rows=st.integers(1, 9),
    k=st.integers(1, 200),
    seed=st.integers(0, 999),
    shift=st.sampled_from([0.0, 3.0, -3.0]),
    clips=st.booleans(),
    offsets=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_a_weight_has_the_values_and_gradients_of_tensor_operations(
    bits: int, kind: str, group: int | None, rows: int, k: int, seed: int, shift: float, clips: bool, offsets: bool
) -> None:
    precision = Precision(bits, 8, kind == "*", group)
    weight = values((rows, k), seed, shift).requires_grad_()
    groups = -(-k // group) if group else 1
    factors = [torch.full((rows, groups), 0.8).requires_grad_() for _ in range(2 * clips)]
    offset = (0.3 * values((rows, k), seed + 1)).requires_grad_() if offsets else None
    weight_grid = WeightGrid(*(factors or (None, None)), offset, kind == "symmetric", kind == "half_zero")
    aim = values((rows, k), seed + 2)
    leaves = [weight, *factors, *([] if offset is None else [offset])]

    def value_and_gradients() -> list[Tensor]:
        value = fake_quant_weight(weight, precision, weight_grid)
        return [value.detach(), *torch.autograd.grad((value * aim).sum(), leaves)]

    fused = value_and_gradients()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "_uses_fused_loops", lambda x: False)
        plain = value_and_gradients()
    assert torch.equal(fused[0], plain[0])
    for one, other in zip(fused[1:], plain[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 33), (1, 2, 7, 16), (700, 300)])
def test_a_token_has_the_values_of_tensor_operations_to_the_bit(shape: tuple[int, ...]) -> None:
    x = values(shape, 5)
    low, high = grid.row_range(x)
    for bits, clip in ((8, 1.0), (4, 0.7), (1, 0.5)):
        factor = torch.tensor(clip)
        expected = grid._FakeQuant.apply(x, *affine_grid(low * factor, high * factor, bits), None, 2**bits - 1)
        assert torch.equal(fake_quant_activation(x, bits, factor), expected)
        assert torch.equal(fake_quant_activation(x.mT.contiguous().mT, bits, factor), expected), "not contiguous"


def test_the_clip_and_the_elements_at_the_ends_of_the_range_receive_gradients() -> None:
    x, clip = values((2, 3, 40), 7).requires_grad_(), torch.tensor(0.8, requires_grad=True)
    y, factor = in_double(x), in_double(clip)
    aim = values((2, 3, 40), 8)
    for one, by in ((x, clip), (y, factor)):
        ((fake_quant_activation(one, 3, by) - aim) ** 2).sum().backward()
    assert x.grad is not None and y.grad is not None and clip.grad is not None and factor.grad is not None
    assert clip.grad.abs() > 0
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(clip.grad.double(), factor.grad, rtol=1e-3, atol=1e-3)
    ends = x.detach().flatten(0, 1).argmax(-1)
    assert x.grad.flatten(0, 1).gather(1, ends[:, None]).abs().min() > 0


def test_a_row_of_zeros_is_unchanged_and_has_finite_gradients() -> None:
    x = torch.zeros(3, 20, requires_grad=True)
    value = fake_quant_activation(x, 4)
    value.sum().backward()
    assert torch.equal(value, torch.zeros(3, 20)) and x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("invalid", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 17, 39])
def test_a_value_that_is_not_finite_stays_visible(invalid: float, column: int) -> None:
    x = values((3, 40), 9)
    x[1, column] = invalid
    result = fake_quant_activation(x, 8)
    assert not result[1].isfinite().all()
    assert torch.equal(result[[0, 2]], fake_quant_activation(x[[0, 2]], 8))


def test_without_gradients_no_graph_is_stored() -> None:
    x = values((4, 32), 3)
    assert not fake_quant_activation(x, 4).requires_grad
    with torch.no_grad():
        assert not fake_quant_weight(x.requires_grad_(), Precision.parse("W2A8")).requires_grad


def test_the_gradient_of_the_maximum_goes_to_the_first_on_ties() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, -1.0]], requires_grad=True)
    ranges = []

    def grid_of(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        ranges.append((low.item(), high.item()))
        return affine_grid(low, high, 2)

    value = grid.fake_quant_rows(x, grid_of, (), None, 3)
    (gradient,) = torch.autograd.grad((value * torch.tensor([[1.0, 0.0, 0.0, 0.0]])).sum(), x)
    assert ranges == [(-1.0, 3.0)]
    assert gradient[0, 1] != 0 and gradient[0, 2] == 0


def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, clip = values((512, 300), 4).requires_grad_(), torch.tensor(0.9, requires_grad=True)
    results = []
    for threads in ("1", "2"):
        monkeypatch.setenv("ABQ_THREADS", threads)
        value = fake_quant_activation(x, 4, clip)
        results.append((value, *torch.autograd.grad((value * x.detach()).sum(), (x, clip))))
    assert all(map(torch.equal, *results)), "bit for bit"
