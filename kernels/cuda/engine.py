"""The GPU engine's door: choose a path and a plan, quantize, multiply. `kernels.dispatch` sends uploaded weights here.

Each kind of kernel is tested once on a device, before it is first used there; one that fails is switched off with a
warning that names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kernels.cuda import driver, launch
from kernels.cuda.compile import has_binary_mma
from kernels.cuda.device_tensors import DeviceWeight, Int8Workspace, QuantizedActivations, upload
from kernels.cuda.inputs import Gated, Normed, values_of
from kernels.cuda.plan import Plan, default_plan, families
from kernels.cuda.tiles import BINARY, BYTES, LIBRARY
from kernels.cuda.tuning import PlanTable
from kernels.formats import reference
from kernels.formats.activations import quantize_activations
from kernels.formats.hadamard_block import block_of
from kernels.formats.planes import ShapeError
from kernels.formats.weight import pack_weight
from kernels.hadamard import transformed, transformed_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cuda.inputs import Input

PATHS = {BINARY: "cuda-binary", BYTES: "cuda-int8", LIBRARY: "cuda-int8-library"}
DEQUANTIZED = "cuda-dequantized"
_FEW_TOKENS, _MOST_COPIES = 16, 32  # of a weight that is timed: more tokens than these take longer than reading it


class GpuPathWarning(RuntimeWarning):
    """A kind of kernel gave wrong results on this device and is switched off."""


class GpuPathError(RuntimeError):
    """No kind of kernel is left that can take a weight on a device."""


def linear(x: Input, weight: DeviceWeight, act_bits: int) -> Tensor:
    """y = x W^T + bias on the weight's device, exact in integers where act_bits is 1..8.

    x: (m, k) float32, float16 or bfloat16 on the weight's device, or a gate or a norm of such (`kernels.cuda.inputs`).
    act_bits: quantized per token; 16: the weight is dequantized to x's dtype and multiplied by torch.  Returns (m, n)
    of x's dtype.  Runs on torch's current stream. In the capture of a CUDA graph it takes the plan known so far: call
    `best_plan` before, which times and loads.
    Raises ShapeError, CudaError, CompileError, GpuPathError.
    """
    import torch

    on = _checked(x, weight, act_bits)
    values, m = values_of(x), x.shape[0]
    out = torch.empty((m, weight.n), dtype=values.dtype, device=values.device)
    if not m:
        return out
    if act_bits == 16:
        full = torch.empty((weight.n, weight.k), dtype=values.dtype, device=values.device)
        launch.dequantize(on, weight, full)
        bias = None if weight.bias is None else weight.bias[: weight.n].to(values.dtype)
        x = x if isinstance(x, torch.Tensor) else materialize(x)
        if weight.hadamard > 1:
            x = transformed_tensor(x.float(), weight.hadamard).to(x.dtype)
        return torch.nn.functional.linear(x, full, bias)
    _Product(on, best_plan(weight, m, act_bits), m, weight, act_bits).run(x, out)
    return out


def materialize(x: Gated | Normed) -> Tensor:
    """The values (m, k) that x stands for, on its device. Raises ShapeError, CudaError, CompileError."""
    import torch

    out = torch.empty(x.shape, dtype=x.values.dtype, device=x.values.device)
    launch.resolve(driver.device_of(x.values), x, out)
    return out


def exact_integers(x: Tensor, weight: DeviceWeight, act_bits: int, plan: Plan | None = None) -> Tensor:
    """The integers inside `linear`: sums of (qa - za)(qw - zw) over each segment, (m, n, groups) int32, bits 1..8."""
    import torch

    on = _checked(x, weight, act_bits)
    totals = torch.empty((len(x), weight.n, weight.groups), dtype=torch.int32, device=x.device)
    out = torch.empty((len(x), weight.n), dtype=x.dtype, device=x.device)
    if len(x):
        chosen = plan or best_plan(weight, len(x), act_bits)
        _Product(on, chosen, len(x), weight, act_bits).run(x, out, totals)
    return totals


def path_for(weight: DeviceWeight, m: int, act_bits: int) -> str:
    """ "cuda-binary", "cuda-int8" or "cuda-dequantized": the path that `linear` takes for m tokens."""
    _check_bits(act_bits)
    return DEQUANTIZED if act_bits == 16 else PATHS[best_plan(weight, m, act_bits).instance.family]


def best_plan(weight: DeviceWeight, m: int, act_bits: int) -> Plan:
    """The plan for m tokens on the weight's device: from its table, or timed now (but in the capture of a graph)."""
    chosen = _chosen.setdefault(weight, {})
    if (m, act_bits) not in chosen:
        on = driver.device_of(weight.data)
        if on.is_capturing():
            return _table(on.index).best(weight, m, act_bits, families(weight, on.arch), None)
        chosen[m, act_bits] = _timed_plan(on, weight, m, act_bits)
    return chosen[m, act_bits]


_chosen: WeakKeyDictionary[DeviceWeight, dict[tuple[int, int], Plan]] = WeakKeyDictionary()


def _timed_plan(on: driver.CudaDevice, weight: DeviceWeight, m: int, act_bits: int) -> Plan:
    """The table's plan, timed if it has none, with its kernels loaded. Raises GpuPathError."""
    allowed = tuple(family for family in families(weight, on.arch) if works(family, on.index))
    if not allowed:
        raise GpuPathError(
            f"no kernel for {weight.planes} planes in segments of {weight.segment} columns gave right results on "
            f"{on.name}; use the CPU engine, and please report this"
        )

    plan = _table(on.index).best(weight, m, act_bits, allowed, partial(_seconds, on, weight, m, act_bits))
    on.load(plan.instance)
    return plan


def _seconds(on: driver.CudaDevice, weight: DeviceWeight, m: int, act_bits: int, plan: Plan) -> float:
    """Of one product by a plan, as a model sees it: in a graph, and of few tokens with a weight that is in no cache."""
    import torch

    x = torch.randn((m, weight.k), device=weight.data.device).half()
    out = torch.empty((m, weight.n), dtype=torch.float16, device=weight.data.device)
    wanted = -(-2 * on.cache_bytes // weight.nbytes) if m <= _FEW_TOKENS else 1
    weights = [weight, *(weight.copy() for _ in range(min(wanted, _MOST_COPIES) - 1))]
    products = [_Product(on, plan, m, copy, act_bits) for copy in weights]
    return on.seconds_in_graph([partial(product.run, x, out) for product in products])


@cache
def works(family: str, index: int) -> bool:
    """Whether a kind of kernel passed its self-test on a device: exact integers on a small awkward product."""
    if family == BINARY and not has_binary_mma(driver.device(index).arch):
        return False
    return passes_self_test(partial(_self_test, family), index, f"The GPU path '{PATHS[family]}'", "It is switched off")


def passes_self_test(test: Callable[[str], bool], index: int, subject: str, instead: str) -> bool:
    """Whether a self-test, called with a device's name in torch, holds there; warns where it does not."""
    on = driver.device(index)
    right = test(on.place)
    if not right:
        message = f"{subject} gave wrong results on {on.name} in the self-test. {instead}. Please report this."
        warnings.warn(message, GpuPathWarning, stacklevel=3)
    return right


def describe() -> dict[str, object]:
    """The devices and which paths work on them: {"devices": [{"name", "arch", "paths"}]}; no devices without CUDA."""
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        on = driver.device(index)
        paths = {PATHS[family]: works(family, index) for family in PATHS}
        devices.append({"name": on.name, "arch": on.arch, "paths": {**paths, DEQUANTIZED: True}})
    return {"devices": devices}


class _Product:
    """A plan with its scratch memory, from torch's allocator: of the current stream, or of the graph being captured."""

    def __init__(self, on: driver.CudaDevice, plan: Plan, m: int, weight: DeviceWeight, act_bits: int) -> None:
        import torch

        self.on, self.plan, self.weight = on, plan, weight
        by_library = plan.instance.family == LIBRARY
        tiles = launch.output_tiles(plan, weight, m, act_bits)
        words = launch.partial_words(plan, weight, m)
        self.acts = QuantizedActivations.empty(
            m, act_bits, BYTES if by_library else plan.instance.family, weight, tiles
        )
        self.partial = torch.empty(words, dtype=torch.int32, device=weight.data.device) if words else None
        self.library = Int8Workspace.empty(m, weight) if by_library else None

    def run(self, x: Input, out: Tensor, totals: Tensor | None = None) -> None:
        """Launch all of it; allocates nothing."""
        launch.quantize(self.on, x, self.weight, self.acts)
        if self.library is not None:
            launch.multiply_by_library(self.on, self.acts, self.weight, out, self.library, totals)
        else:
            launch.multiply(self.on, self.plan, self.acts, self.weight, out, self.partial, totals)


def _self_test(family: str, place: str) -> bool:
    random = np.random.default_rng(0)
    n, m = 37, 5
    for planes, act_bits, group_size, k in ((3, 8, None, 700), (8, 8, None, 768), (4, 3, 128, 700)):
        if family == LIBRARY and group_size is not None:
            continue
        groups = 1 if group_size is None else -(-k // group_size)
        codes = random.integers(0, 1 << planes, (n, k), dtype=np.uint16)
        spacing = 1 + planes % 2
        zero = random.integers(0, spacing * ((1 << planes) - 1) + 1, (n, groups), dtype=np.int16)
        scale, block = np.ones((n, groups), np.float32), block_of(k)
        packed = pack_weight(codes, planes, scale, zero, group_size, act_clip=0.9, hadamard=block, spacing=spacing)
        weight = upload(packed, place)
        x = random.standard_normal((m, k), np.float32)
        seen = transformed(x, weight.hadamard)
        act_codes, _, act_zero, _ = quantize_activations(seen, act_bits, weight.act_clip)
        expected = reference.integer_totals(act_codes, act_zero, spacing * codes, zero, weight.segment)
        plan = default_plan(weight, m, act_bits, (family,), 4)
        totals = exact_integers(_tensor(x, place), weight, act_bits, plan)
        if not np.array_equal(totals.cpu().numpy(), expected):
            return False
    return True


def _tensor(x: NDArray[np.float32], place: str) -> Tensor:
    import torch

    return torch.from_numpy(x).to(place)


def _checked(x: Input, weight: DeviceWeight, act_bits: int) -> driver.CudaDevice:
    _check_bits(act_bits)
    device = values_of(x).device
    if len(x.shape) != 2 or x.shape[1] != weight.k:
        raise ShapeError(f"activations of shape {tuple(x.shape)} do not fit a weight ({weight.n}, {weight.k})")
    if device != weight.data.device:
        raise ShapeError(f"activations on {device} and a weight on {weight.data.device}; move one to the other")
    return driver.device_of(weight.data)


def _check_bits(act_bits: int) -> None:
    if act_bits != 16 and not 1 <= act_bits <= 8:
        raise ShapeError(f"activations can have 1..8 bits, or 16 for none quantized; got {act_bits}")


@cache
def _table(index: int) -> PlanTable:
    on = driver.device(index)
    return PlanTable(on.name, on.arch, on.processors)
