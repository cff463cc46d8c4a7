"""A quantized product with its expected result, for the emulator and the GPU."""

from dataclasses import dataclass

import numpy as np
import torch

from kernels.cuda import launch
from kernels.cuda.device_tensors import DeviceWeight, Int8Workspace, QuantizedActivations, upload
from kernels.cuda.plan import Plan
from kernels.cuda.tiles import BYTES, LIBRARY
from kernels.formats.activations import quantize_activations
from kernels.formats.reference import integer_totals, linear_from_totals
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.hadamard import transformed

POISON = -0x5A5A5A5B


@dataclass(frozen=True)
class Case:
    """A product y (m, n) = x (m, k) W^T."""

    bits: int
    act_bits: int
    m: int = 1
    n: int = 16
    k: int = 256
    starred: bool = False
    group_size: int | None = None
    dtype: torch.dtype = torch.float32
    seed: int = 0
    act_clip: float = 0.9
    hadamard: int = 1
    spacing: int = 1

    def weight(self) -> PackedWeight:
        random = np.random.default_rng(self.seed + self.n * 31 + self.k)
        groups = 1 if self.group_size is None else -(-self.k // self.group_size)
        codes = random.integers(0, (1 << self.bits) + self.starred, (self.n, self.k), dtype=np.uint16)
        shape = (self.n, groups)
        zero = random.integers(0, self.spacing * ((1 << self.bits) - 1) + 1, shape)
        if self.starred:
            zero[:] = self.spacing << (self.bits - 1)
        scale = random.uniform(0.1, 1.0, shape).astype(np.float32)
        bias = random.standard_normal(self.n, np.float32) if (self.n + self.m) % 2 else None
        planes = self.bits + self.starred
        settings = self.group_size, bias, self.act_bits, self.act_clip, self.hadamard, self.spacing
        return pack_weight(codes, planes, scale, zero, *settings)

    def tokens(self) -> torch.Tensor:
        random = np.random.default_rng(self.seed + self.m)
        return torch.from_numpy(random.standard_normal((self.m, self.k), np.float32)).to(self.dtype)


@dataclass(frozen=True)
class Expected:
    """The int64 reference of a case."""

    scale: np.ndarray
    zero: np.ndarray
    codes: np.ndarray
    totals: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, case: Case, weight: PackedWeight, x: torch.Tensor, segment: int) -> "Expected":
        seen = transformed(x.float().cpu().numpy(), case.hadamard)
        codes, scale, zero, _ = quantize_activations(seen, case.act_bits, weight.act_clip)
        groups = -(-case.k // segment)
        columns = np.arange(groups) * segment // weight.segment
        totals = integer_totals(codes, zero, weight.levels(), weight.zero[:, columns], segment)
        y = linear_from_totals(totals, scale, weight.scale[:, columns], weight.bias)
        return cls(scale, zero, codes, totals, y)


@dataclass(frozen=True, eq=False)
class Ran:
    """The results of a case on a launcher."""

    acts: QuantizedActivations
    y: torch.Tensor
    totals: torch.Tensor


def run(case: Case, device: launch.Launcher, weight: DeviceWeight, x: torch.Tensor, plan: Plan) -> Ran:
    """Quantize and multiply on a launcher. All outputs are filled with poison before."""
    tiles = launch.output_tiles(plan, weight, case.m, case.act_bits)
    uses_library = plan.instance.family == LIBRARY
    acts = QuantizedActivations.empty(
        case.m, case.act_bits, BYTES if uses_library else plan.instance.family, weight, tiles
    )
    workspace = Int8Workspace.empty(case.m, weight) if uses_library else None
    on = x.device
    out = torch.full((case.m, weight.n), float("nan"), dtype=case.dtype, device=on)
    totals = torch.full((case.m, weight.n, weight.groups), POISON, dtype=torch.int32, device=on)
    words = launch.partial_words(plan, weight, case.m)
    partial = torch.full((words,), POISON, dtype=torch.int32, device=on) if words else None
    for tensor in (acts.codes, acts.zero, acts.sums, acts.counters):
        tensor.fill_(POISON)
    acts.scale.fill_(float("nan"))
    if hasattr(device, "show"):
        device.show(x, acts.codes, acts.scale, acts.zero, acts.sums, acts.counters, out, totals, partial)
        device.show(weight.data, weight.scale, weight.zero, weight.sums, weight.bias)
    launch.quantize(device, x, weight, acts)
    if workspace is not None:
        for tensor in (workspace.weight, workspace.acts, workspace.sums):
            tensor.fill_(POISON if tensor.dtype == torch.int32 else 0x5A)
        if hasattr(device, "show"):
            device.show(workspace.weight, workspace.acts, workspace.sums)
        launch.multiply_by_library(device, acts, weight, out, workspace, totals)
    else:
        launch.multiply(device, plan, acts, weight, out, partial, totals)
    return Ran(acts, out, totals)


def assert_exact(case: Case, device: launch.Launcher, plan: Plan, on: str = "cpu") -> Ran:
    """Integers equal the int64 reference; outputs the float32 reference, rounded once (groups: within rounding)."""
    packed, x = case.weight(), case.tokens().to(on)
    weight = upload(packed, on)
    expected = Expected.of(case, packed, x, weight.segment)
    ran = run(case, device, weight, x, plan)
    assert np.array_equal(ran.acts.scale.cpu().numpy()[: case.m], expected.scale, equal_nan=True)
    assert np.array_equal(ran.acts.zero.cpu().numpy()[: case.m], expected.zero)
    assert np.array_equal(ran.totals.cpu().numpy(), expected.totals)
    y = torch.from_numpy(expected.y).to(case.dtype)
    if weight.groups == 1:
        assert torch.equal(ran.y.cpu(), y)
    else:
        size = float(y.float().abs().max())
        coarse = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[case.dtype]
        torch.testing.assert_close(ran.y.cpu().float(), y.float(), rtol=coarse, atol=1e-6 * size)
    return ran
