"""The GPU engine: choose a kernel family and a launch plan, quantize, multiply.

Each kernel family runs a self-test once per device, before its first use there. A family that fails is disabled with a
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
    from torch import Tensor, dtype

    from kernels.cuda.inputs import Input

PATHS = {BINARY: "cuda-binary", BYTES: "cuda-int8", LIBRARY: "cuda-int8-library"}
DEQUANTIZED = "cuda-dequantized"
# Up to _FEW_TOKENS, reading the weight takes most of the time: plans are then timed on copies that exceed the L2 cache.
_FEW_TOKENS, _MOST_COPIES = 16, 32


class GpuPathWarning(RuntimeWarning):
    """A kernel family failed its self-test on this device and is disabled."""


class GpuPathError(RuntimeError):
    """No working kernel family supports a weight on a device."""


def linear(x: Input, weight: DeviceWeight, act_bits: int) -> Tensor:
    """y = x W^T + bias on the weight's device; the integer product is exact for act_bits 1..8.

    x: (m, k) float32, float16 or bfloat16 on the weight's device, plain or fused (`kernels.cuda.inputs`).
    act_bits: 1..8: tokens are quantized to this many bits; 16: the weight is dequantized to x's dtype and torch
    multiplies.  Returns (m, n) of x's dtype.  Runs on torch's current stream. During CUDA graph capture nothing can be
    timed or loaded, so call `best_plan` before.
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


def look_up(weight: DeviceWeight, ids: Tensor, dtype: dtype) -> Tensor:
    """Dequantize the rows `ids` (m,) int64: (m, k) of `dtype`; NaN for a number that is no row.

    Runs on torch's current stream, and can be captured in a CUDA graph. Raises ShapeError, CudaError, CompileError.
    """
    import torch

    if ids.ndim != 1 or ids.dtype != torch.int64 or ids.device != weight.data.device:
        raise ShapeError(
            f"rows are looked up by int64 numbers (m,) on {weight.data.device}, not by {ids.dtype} of shape "
            f"{tuple(ids.shape)} on {ids.device}"
        )
    out = torch.empty((len(ids), weight.k), dtype=dtype, device=ids.device)
    if len(ids):
        launch.look_up(driver.device_of(weight.data), weight, ids.contiguous(), out)
    return out


def materialize(x: Gated | Normed) -> Tensor:
    """Compute the values (m, k) of a fused input. Raises ShapeError, CudaError, CompileError."""
    import torch

    out = torch.empty(x.shape, dtype=x.values.dtype, device=x.values.device)
    launch.materialize(driver.device_of(x.values), x, out)
    return out


def exact_integers(x: Tensor, weight: DeviceWeight, act_bits: int, plan: Plan | None = None) -> Tensor:
    """The integer sums inside `linear`, (m, n, groups) int32.

    They are (qa - za)(spacing qw - zw), summed over each group.  act_bits: 1..8.  plan: None for the best one.
    """
    import torch

    on = _checked(x, weight, act_bits)
    totals = torch.empty((len(x), weight.n, weight.groups), dtype=torch.int32, device=x.device)
    out = torch.empty((len(x), weight.n), dtype=x.dtype, device=x.device)
    if len(x):
        chosen = plan or best_plan(weight, len(x), act_bits)
        _Product(on, chosen, len(x), weight, act_bits).run(x, out, totals)
    return totals


def path_for(weight: DeviceWeight, m: int, act_bits: int) -> str:
    """The path that `linear` takes for m tokens: a value of `PATHS`, or "cuda-dequantized"."""
    _check_bits(act_bits)
    return DEQUANTIZED if act_bits == 16 else PATHS[best_plan(weight, m, act_bits).instance.family]


def best_plan(weight: DeviceWeight, m: int, act_bits: int) -> Plan:
    """The launch plan for m tokens, from the device's table or autotuned now.

    During CUDA graph capture nothing is timed: an unknown shape then gets the default plan.
    """
    chosen = _chosen.setdefault(weight, {})
    if (m, act_bits) not in chosen:
        on = driver.device_of(weight.data)
        if on.is_capturing():
            return _table(on.index).best(weight, m, act_bits, families(weight, on.arch), None)
        chosen[m, act_bits] = _timed_plan(on, weight, m, act_bits)
    return chosen[m, act_bits]


_chosen: WeakKeyDictionary[DeviceWeight, dict[tuple[int, int], Plan]] = WeakKeyDictionary()


def _timed_plan(on: driver.CudaDevice, weight: DeviceWeight, m: int, act_bits: int) -> Plan:
    """The table's plan, autotuned if it has none, with its kernels loaded. Raises GpuPathError."""
    allowed = tuple(family for family in families(weight, on.arch) if works(family, on.index))
    if not allowed:
        raise GpuPathError(
            f"every kernel for {weight.planes} planes in segments of {weight.segment} columns failed its self-test on "
            f"{on.name}; use the CPU engine, and please report this"
        )
    plan = _table(on.index).best(weight, m, act_bits, allowed, partial(_seconds, on, weight, m, act_bits))
    on.load(plan.instance)
    return plan


def _seconds(on: driver.CudaDevice, weight: DeviceWeight, m: int, act_bits: int, plan: Plan) -> float:
    """Seconds of one product, in a CUDA graph as in a model.

    For few tokens the L2 cache is cold.
    """
    import torch

    x = torch.randn((m, weight.k), device=weight.data.device).half()
    out = torch.empty((m, weight.n), dtype=torch.float16, device=weight.data.device)
    copies = -(-2 * on.cache_bytes // weight.nbytes) if m <= _FEW_TOKENS else 1
    weights = [weight, *(weight.copy() for _ in range(min(copies, _MOST_COPIES) - 1))]
    products = [_Product(on, plan, m, copy, act_bits) for copy in weights]
    return on.seconds_in_graph([partial(product.run, x, out) for product in products])


@cache
def works(family: str, index: int) -> bool:
    """Whether a kernel family passed its self-test on GPU `index`: exact integers."""
    if family == BINARY and not has_binary_mma(driver.device(index).arch):
        return False
    return passes_self_test(partial(_self_test, family), index, f"The GPU path '{PATHS[family]}'", "It is disabled")


def passes_self_test(test: Callable[[str], bool], index: int, kernels: str, fallback: str) -> bool:
    """Run a self-test, a function of the torch device string, on GPU `index`; warn if it fails."""
    on = driver.device(index)
    passed = test(on.place)
    if not passed:
        message = f"{kernels} returned wrong results on {on.name} in the self-test. {fallback}. Please report this."
        warnings.warn(message, GpuPathWarning, stacklevel=3)
    return passed


def describe() -> dict[str, object]:
    """The GPUs and the paths that work on them: {"devices": [{"name", "arch", "paths"}]}."""
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        on = driver.device(index)
        paths = {PATHS[family]: works(family, index) for family in PATHS}
        devices.append({"name": on.name, "arch": on.arch, "paths": {**paths, DEQUANTIZED: True}})
    return {"devices": devices}


class _Product:
    """A product with its plan and its scratch buffers, which torch's allocator provides."""

    def __init__(self, on: driver.CudaDevice, plan: Plan, m: int, weight: DeviceWeight, act_bits: int) -> None:
        import torch

        self.on, self.plan, self.weight = on, plan, weight
        uses_library = plan.instance.family == LIBRARY
        tiles = launch.output_tiles(plan, weight, m, act_bits)
        words = launch.partial_words(plan, weight, m)
        family = BYTES if uses_library else plan.instance.family
        self.acts = QuantizedActivations.empty(m, act_bits, family, weight, tiles)
        self.partial = torch.empty(words, dtype=torch.int32, device=weight.data.device) if words else None
        self.workspace = Int8Workspace.empty(m, weight) if uses_library else None

    def run(self, x: Input, out: Tensor, totals: Tensor | None = None) -> None:
        """Launch all kernels. Allocates nothing."""
        launch.quantize(self.on, x, self.weight, self.acts)
        if self.workspace is not None:
            launch.multiply_by_library(self.on, self.acts, self.weight, out, self.workspace, totals)
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
        act_codes, _, act_zero, _ = quantize_activations(transformed(x, weight.hadamard), act_bits, weight.act_clip)
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
        raise ShapeError(f"act_bits is {act_bits}: use 1..8, or 16 for activations that are not quantized")


@cache
def _table(index: int) -> PlanTable:
    on = driver.device(index)
    return PlanTable(on.name, on.arch, on.processors)
