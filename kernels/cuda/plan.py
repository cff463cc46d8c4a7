"""Launch plans of a product: the kernel, the warps per block, the blocks that split K."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernels.cuda.compile import has_binary_mma
from kernels.cuda.device_tensors import DeviceWeight, plane_columns
from kernels.cuda.fragments import CHUNK, HALF
from kernels.cuda.tiles import BINARY, BYTES, LIBRARY, Instance, instances
from kernels.formats.planes import ShapeError

SHARED_LIMIT = 48 * 1024
_STAGES = 3  # pipeline stages of activations in bytes.cu
_CANDIDATES = 10
_MOST_BLOCKS_Y = 65_535
_INT8_MIN_TOKENS = 17  # minimum of cuBLASLt's INT8 product
_BINARY_WORK = 960  # tokens x planes x activation bits above which INT8 is expected to be faster, until timed
_NINTH_PLANE_COST = 3  # bytes.cu needs two more products for a ninth plane


@dataclass(frozen=True, order=True)
class Plan:
    """A kernel with its block and grid.

    A block has warps_n x warps_m warps (BINARY: warps_m is 1, and the warps split K).  splits: blocks that split K.
    """

    instance: Instance
    warps_n: int
    warps_m: int
    splits: int

    @property
    def warps(self) -> int:
        """Warps per block."""
        return self.warps_n * self.warps_m

    @property
    def workers(self) -> int:
        """Number of workers (warps for BINARY, blocks for BYTES) that split K."""
        return self.splits * (self.warps if self.instance.family == BINARY else 1)

    def block_rows(self) -> int:
        """Row tiles per block."""
        return self.instance.rows * (1 if self.instance.family == BINARY else self.warps_n)

    def block_tokens(self, columns: int) -> int:
        """Tokens per block. columns: columns of the binary product per token."""
        if self.instance.family == BINARY:
            return self.instance.columns * (8 // columns)
        return self.instance.columns * 8 * self.warps_m

    def grid(self, weight: DeviceWeight, m: int, act_bits: int) -> tuple[int, int, int]:
        """Blocks along n, m and k."""
        tokens = self.block_tokens(plane_columns(act_bits))
        return -(-weight.tiles // self.block_rows()), -(-m // tokens), self.splits

    def shared_bytes(self, act_bits: int) -> int:
        """Dynamic shared memory per block, in bytes."""
        tokens = self.block_tokens(plane_columns(act_bits))
        if self.instance.family == BINARY:
            return self.warps * tokens * 16 * self.instance.rows * 4
        return _STAGES * tokens * HALF


def unit_of(weight: DeviceWeight, family: str) -> tuple[int, int]:
    """(unit, number of units) in which K is divided among workers.

    A unit contains whole groups; it is counted in chunks (BINARY) or half chunks (BYTES).
    """
    step, count = (CHUNK, weight.chunks) if family == BINARY else (HALF, weight.steps)
    unit = math.lcm(weight.segment, step) // step if weight.grouped else 1
    return unit, -(-count // unit)


def families(weight: DeviceWeight, arch: str) -> tuple[str, ...]:
    """The kernel families that support this weight on an architecture.

    BINARY needs sm_80 to sm_90, and a group size that is a multiple of 128. BYTES uses INT8 tensor cores and supports
    everything. LIBRARY needs one scale per row and codes that fit into a byte.
    """
    binary = (BINARY,) if has_binary_mma(arch) and (not weight.grouped or weight.segment % HALF == 0) else ()
    library = (LIBRARY,) if not weight.grouped and weight.planes <= 8 else ()
    return (*binary, BYTES, *library)


def candidates(weight: DeviceWeight, m: int, act_bits: int, allowed: tuple[str, ...], processors: int) -> list[Plan]:
    """At most eleven plans worth timing, the one expected to be fastest first.

    allowed: a subset of `families`.  processors: multiprocessors of the device.  Raises ShapeError if m or act_bits is
    out of range.
    """
    if m < 1 or not 1 <= act_bits <= 8:
        raise ShapeError(f"no plan for {m} tokens at {act_bits} bits: use at least 1 token and 1..8 bits")
    plans = [
        plan
        for family in allowed
        for instance in instances(weight.planes, weight.grouped)
        if instance.family == family
        for plan in _layouts(instance, weight, m, act_bits, processors)
    ]
    expected = _expected_family(weight, m, act_bits, allowed)
    plans.sort(key=lambda plan: (plan.instance.family != expected, _cost(plan, weight, m, act_bits, processors)))
    favoured = [plan for plan in plans if plan.instance.family == expected][: _CANDIDATES - 3]
    chosen = favoured + [plan for plan in plans if plan.instance.family != expected][:3]
    if LIBRARY in allowed and (_INT8_MIN_TOKENS <= m <= _MOST_BLOCKS_Y or len(allowed) == 1):
        chosen.append(Plan(Instance(LIBRARY, weight.planes, 0, 0, False), 1, 1, 1))
    return chosen


def fits_tokens(plan: Plan, m: int) -> bool:
    """Whether a plan that was timed for fewer tokens can be launched for m."""
    return plan.instance.family != LIBRARY or m <= _MOST_BLOCKS_Y


def default_plan(weight: DeviceWeight, m: int, act_bits: int, allowed: tuple[str, ...], processors: int) -> Plan:
    """The plan to use when nothing has been timed."""
    return candidates(weight, m, act_bits, allowed, processors)[0]


def _expected_family(weight: DeviceWeight, m: int, act_bits: int, allowed: tuple[str, ...]) -> str:
    if BINARY not in allowed or BYTES not in allowed:
        return BYTES if BYTES in allowed else BINARY
    limit = _BINARY_WORK * (_NINTH_PLANE_COST if weight.planes == 9 else 1)
    return BINARY if m * weight.planes * act_bits <= limit else BYTES


def _layouts(instance: Instance, weight: DeviceWeight, m: int, act_bits: int, processors: int) -> list[Plan]:
    _, units = unit_of(weight, instance.family)
    if instance.family == BINARY:
        blocks = [(warps, 1) for warps in (2, 4, 8)]
    elif (instance.rows, instance.columns) == (1, 1):
        blocks = [(2, 1), (4, 1), (8, 1)]
    else:
        blocks = [(4, 1), (4, 2), (2, 2)]
    plans = []
    for warps_n, warps_m in blocks:
        whole = Plan(instance, warps_n, warps_m, 1)
        if whole.shared_bytes(act_bits) > SHARED_LIMIT:
            continue
        wide, tall, _ = whole.grid(weight, m, act_bits)
        if tall > _MOST_BLOCKS_Y:
            continue
        workers = whole.warps if instance.family == BINARY else 1
        most = max(1, units // workers)
        split_counts = {1, *(-(-factor * processors // (wide * tall)) for factor in (1, 2))}
        plans += [Plan(instance, warps_n, warps_m, splits) for splits in sorted({min(s, most) for s in split_counts})]
    return plans


def _cost(plan: Plan, weight: DeviceWeight, m: int, act_bits: int, processors: int) -> float:
    """Rough cost of a plan in bytes, to order the candidates.

    Weights are read once per block of tokens, activations once per block of rows (from cache, so they count half). Each
    split adds a pass over the outputs. Low occupancy scales the cost up.
    """
    wide, tall, splits = plan.grid(weight, m, act_bits)
    columns = plane_columns(act_bits)
    weights = weight.tiles * weight.planes * 512 * tall
    per_token = 32 * columns if plan.instance.family == BINARY else 256
    acts = plan.block_tokens(columns) * per_token * wide * tall
    partial = 0 if splits == 1 else 2 * splits * m * weight.n * 4 / weight.chunks
    blocks = wide * tall * splits
    rounds = -(-blocks // processors)
    occupancy = min(1.0, blocks * plan.warps / (processors * 8)) * blocks / (rounds * processors)
    return (weights + acts / 2 + partial) / max(occupancy, 1e-3)
