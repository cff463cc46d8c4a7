"""Entry point of the CPU engine: choose a path, quantize the tokens, multiply.

Each path is self-tested before its first use. A path that fails is disabled with a warning that names it;
`kernels.dispatch` then uses NumPy.
"""

import time
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from kernels.cpu.arguments import Tokens, weight_fields
from kernels.cpu.crossover import ALWAYS_UNPACKED, CrossoverTable
from kernels.cpu.decode import decode
from kernels.cpu.paths import DEQUANTIZED, GEMM, PANEL_STEP, WORTH_A_THREAD
from kernels.cpu.prefill import prefill
from kernels.cpu.quantize import quantize_tokens
from kernels.cpu.tile_loops import FLOAT_TILE_TOKENS, TILE_TOKENS
from kernels.cpu.weight_only import weight_only
from kernels.formats import reference
from kernels.formats.activations import not_finite, quantize_activations, refuse_not_finite
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.host.processor import cpu_name, target
from kernels.host.threads import run_ranges, thread_count

DOT = target().name
BIT_SERIAL = f"{DOT.partition('-')[0]}-bitserial"
PATHS = (DOT, BIT_SERIAL, GEMM, DEQUANTIZED) if target().serial_products else (DOT, GEMM, DEQUANTIZED)

_TIMED_N, _TIMED_K, _TIMED_ROUNDS = 768, 2048, 5
_NO_INTEGERS = np.empty((0, 0, 0), np.int32)


class EngineWarning(RuntimeWarning):
    """A path of the engine returned wrong results on this machine and is disabled."""


def path_for(weight: PackedWeight, m: int, act_bits: int) -> str:
    """Name of the path for m tokens, whether or not it passed its self-test.

    act_bits: 1..8 or 16.
    """
    if act_bits == 16:
        return DEQUANTIZED
    bit_serial = weight.is_bit_serial and weight.planes * act_bits <= target().serial_products
    path = BIT_SERIAL if bit_serial else DOT
    if m <= 1:
        return path
    if m >= ALWAYS_UNPACKED:
        return GEMM
    kind = " ".join([path, f"w{weight.planes}", *([f"a{act_bits}"] if bit_serial else weight.widths.astype(str))])
    last_packed = _crossovers().last_packed(kind, lambda tokens: _seconds(weight, act_bits, path, tokens))
    return path if m <= last_packed else GEMM


@cache
def _crossovers() -> CrossoverTable:
    return CrossoverTable()


def _seconds(like: PackedWeight, act_bits: int, path: str, m: int) -> tuple[float, float]:
    """Seconds of m tokens on one thread, by `path` and by GEMM.

    The weight resembles `like` and fits in a cache.
    """
    packed_for = 1 if like.is_bit_serial and like.planes < 8 else 8
    ones, zeros = np.ones(_TIMED_N, np.float32), np.zeros(_TIMED_N, np.uint16)
    weight = pack_weight(np.zeros((_TIMED_N, _TIMED_K), np.uint8), like.planes, ones, zeros, act_bits=packed_for)
    x = np.ones((m, _TIMED_K), np.float32)
    best = []
    for candidate in (path, GEMM):
        samples = []
        for _ in range(_TIMED_ROUNDS):
            start = time.thread_time()
            linear(x, weight, act_bits, candidate, 1)
            samples.append(time.thread_time() - start)
        best.append(min(samples))
    return best[0], best[1]


def linear(
    x: NDArray[np.float32],
    weight: PackedWeight,
    act_bits: int,
    path: str,
    threads: int | None = None,
    integers: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """x (m, k) float32, quantized to act_bits (1..8), times the weight -> (m, n) float32.

    path: DOT or BIT_SERIAL, which read the packed weight for a few tokens at a time, or GEMM, which unpacks it first.
    integers: (m, n, groups) int32 to write the exact sums of (qa - za)(d qw - zw) to, d the weight's spacing.
    Raises NotFiniteError.
    """
    out = np.empty((x.shape[0], weight.n), np.float32)
    exact = _NO_INTEGERS if integers is None else integers
    fields = weight_fields(weight)
    if path == GEMM:
        act_fields = tuple(_quantize_in_tiles(x, weight, act_bits))

        def run(first: int, last: int) -> None:
            prefill(fields, act_fields, first, last, out, exact)

    else:

        def run(first: int, last: int) -> None:
            quantized = decode(x, act_bits, path == BIT_SERIAL, fields, first, last, out, exact)
            if quantized < len(x):
                raise not_finite(x, quantized)

    _run_threaded(run, weight, x.shape[0], threads)
    return out


def _quantize_in_tiles(x: NDArray[np.float32], weight: PackedWeight, act_bits: int) -> Tokens:
    """Quantize all tokens once, in the layout of `prefill`, for all threads.

    Raises NotFiniteError.
    """
    m = x.shape[0]
    act = Tokens(
        np.empty((-(-m // TILE_TOKENS), weight.k_padded * TILE_TOKENS), np.int8),
        np.empty(m, np.float32),
        np.empty(m, np.int32),
        np.empty((m, weight.groups), np.int32),
    )
    quantized = quantize_tokens(x, act_bits, np.float32(weight.act_clip), weight.segment, TILE_TOKENS, act)
    if quantized < m:
        raise not_finite(x, quantized)
    return act


def linear_dequantized(x: NDArray[np.float32], weight: PackedWeight, threads: int | None = None) -> NDArray[np.float32]:
    """x (m, k) float32, not quantized, times the dequantized weight -> (m, n) float32.

    Raises NotFiniteError.
    """
    tokens, m = x, x.shape[0]
    rows = 1 if m == 1 else -(-m // FLOAT_TILE_TOKENS) * FLOAT_TILE_TOKENS
    if x.shape != (rows, weight.k_padded):
        tokens = np.zeros((rows, weight.k_padded), np.float32)
        tokens[:m, : weight.k] = x
    fields = weight_fields(weight)
    out = np.empty((m, weight.n), np.float32)

    def run(first: int, last: int) -> None:
        weight_only(fields, tokens, first, last, out)

    _run_threaded(run, weight, m, threads)
    if not np.isfinite(out[:, 0]).all():  # NaN or infinity in a token spreads to its whole row
        refuse_not_finite(x)
    return out


def _run_threaded(run: Callable[[int, int], None], weight: PackedWeight, m: int, threads: int | None) -> None:
    many = weight.n * weight.k * m >= WORTH_A_THREAD
    run_ranges(run, weight.panels, PANEL_STEP, thread_count(threads) if many else 1)


@cache
def works(path: str) -> bool:
    """Whether the path passes its self-test, on small irregular shapes.

    It must return the exact integers and the reference's output.
    """
    cases = [(3, 8, 32, 5), (9, 8, None, 1), (7, 4, 64, 6), (2, 8, None, 2)]  # even m: zero points between levels
    if path == BIT_SERIAL:
        cases = [(1, 7, None, 1), (2, 3, 32, 1), (3, 2, 64, 1), (1, 3, None, 1), (3, 1, 64, 1), (1, 1, 32, 5)]
        cases = [case for case in cases if case[0] * case[1] <= target().serial_products]
    try:
        passed = all(_agrees(path, *case) for case in cases)
        outcome = "returned wrong results in its self-test"
    except NumbaError as error:
        passed, outcome = False, f"could not be compiled ({type(error).__name__})"
    if not passed:
        warnings.warn(
            f"The CPU path '{path}' {outcome} and is disabled; NumPy is used instead, which is exact but slow. "
            f"Please report this with the processor's name: {cpu_name()}.",
            EngineWarning,
            stacklevel=2,
        )
    return passed


def _agrees(path: str, planes: int, act_bits: int, group_size: int | None, m: int) -> bool:
    random = np.random.default_rng(planes * 100 + act_bits)
    n, k = 37, 168
    groups = 1 if group_size is None else -(-k // group_size)
    codes = random.integers(0, 1 << planes, (n, k), dtype=np.uint16)
    spacing = 2 - m % 2
    zero = random.integers(0, spacing * ((1 << planes) - 1) + 1, (n, groups), dtype=np.int16)
    scale = random.uniform(0.5, 1.5, (n, groups)).astype(np.float32)
    weight = pack_weight(codes, planes, scale, zero, group_size, scale[:, 0], act_bits, act_clip=0.9, spacing=spacing)
    x = random.standard_normal((m, k), np.float32)
    if path == DEQUANTIZED:
        expected_y = x @ weight.dequantize().T + scale[:, 0]
        return np.allclose(linear_dequantized(x, weight, 1), expected_y, rtol=1e-4, atol=1e-2)
    integers = np.zeros((m, n, groups), np.int32)
    y = linear(x, weight, act_bits, path, 1, integers)
    act_codes, act_scale, act_zero, _ = quantize_activations(x, act_bits, weight.act_clip)
    expected = reference.integer_totals(act_codes, act_zero, spacing * codes, zero, weight.segment)
    expected_y = reference.linear_from_totals(expected, act_scale, scale, scale[:, 0])
    return np.array_equal(integers, expected) and np.allclose(y, expected_y, rtol=1e-5, atol=1e-4)
