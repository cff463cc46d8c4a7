"""Times the engine against torch, all in one run and in turn, after checking the engine against the int64 reference."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import dispatch, reference
from kernels.activations import quantize_activations
from kernels.bandwidth import read_bandwidth
from kernels.peers import torch_peers
from kernels.threads import clock_of, thread_count
from kernels.weight import PackedWeight, pack_weight

_BUDGET_SECONDS = 1.5  # of timing for each shape and m
_SAMPLE_SECONDS = 2e-3  # shorter calls are repeated within a sample
_MIN_ROUNDS, _MAX_ROUNDS = 9, 200
_CHECKED_TOKENS = 4
_CHECKED_ROWS = 1024
_CEILING_BYTES = 256 << 20  # more than most caches hold
_NAME = re.compile(r"W(?P<p>\d+)(?P<star>\*)?A(?P<q>\d+)(?:g(?P<group>\d+))?(?:kv\d+)?", re.IGNORECASE)


class BenchError(ValueError):
    """A benchmark that cannot be run as asked."""


@dataclass(frozen=True)
class KernelMeasurement:
    """One engine on one shape. Times are of the whole product, quantizing and packing the activations included.

    median_us is warm: the call before was the same one.  cold_us is the first call after all other engines had their
    turn and filled the caches with their weights.  speedup compares warm with warm.
    """

    precision: str
    n: int
    k: int
    m: int
    engine: str  # "abq", "torch-fp32", "torch-bf16" or "torch-int8"
    path: str
    median_us: float
    iqr_us: float
    cold_us: float
    exact: bool  # integers equal the int64 reference (A16: within rounding of it); peers round, hence False
    speedup: dict[str, float] = field(compare=False)  # baseline's median / this median, per baseline
    packed_bytes: int
    bytes_moved: int  # weight, activations and outputs, once each
    threads: int
    device: str
    read_gb_per_second: float  # of this machine with these threads: what streaming a weight can reach


@dataclass(frozen=True)
class _Contender:
    precision: str
    engine: str
    path: str
    packed_bytes: int
    exact: bool
    run: Callable[[], Any]


def bench_kernels(
    precisions: list[str],
    shapes: list[tuple[int, int]],
    m: list[int],
    threads: int | None = None,
    on_measurement: Callable[[KernelMeasurement], None] | None = None,
) -> list[KernelMeasurement]:
    """Time every precision ("W2A8", "W2*A8", "W4A4g128", "W4A16") and torch's linears on every (n, k) shape and m.

    Each shape and m is one alternating run of a second or two. Raises BenchError where a name, shape or m is no such.
    """
    parsed = {name: parse_precision(name) for name in precisions}
    if not parsed or not shapes or not m or min(m) < 1 or min(min(shape) for shape in shapes) < 1:
        raise BenchError(f"nothing to measure: precisions {precisions}, shapes {shapes}, m {m}")
    count = thread_count(threads)
    ceiling = read_bandwidth(count, _CEILING_BYTES)
    measurements = []
    with _torch_threads(count):
        for n, k in shapes:
            random = np.random.default_rng(n * 31 + k)
            weights = {name: _random_weight(random, n, k, *parts) for name, parts in parsed.items()}
            full = random.standard_normal((n, k), np.float32)
            for tokens in m:
                x = random.standard_normal((tokens, k), np.float32)
                contenders = [_engine_contender(name, x, weights[name], parsed[name][2], count) for name in parsed] + [
                    _Contender(peer.precision, peer.engine, peer.path, peer.weight_bytes, False, peer.run)
                    for peer in torch_peers(full, x)
                ]
                for measurement in _measure(contenders, n, k, tokens, count, ceiling):
                    measurements.append(measurement)
                    if on_measurement is not None:
                        on_measurement(measurement)
    return measurements


def parse_precision(name: str) -> tuple[int, bool, int, int | None]:
    """(weight bits, starred, activation bits, group size) of a name such as "W2*A8g128". Raises BenchError."""
    match = _NAME.fullmatch(name.strip())
    if match is None or not 1 <= int(match["p"]) <= 8 or int(match["q"]) not in (*range(1, 9), 16):
        raise BenchError(
            f"'{name}' is no precision the kernels have: W1..W8, a star or none, A1..A8 or A16, e.g. W2*A8"
        )
    return int(match["p"]), match["star"] is not None, int(match["q"]), int(match["group"]) if match["group"] else None


def _random_weight(
    random: np.random.Generator, n: int, k: int, bits: int, starred: bool, act_bits: int, group_size: int | None
) -> PackedWeight:
    planes = bits + 1 if starred else bits
    groups = 1 if group_size is None else -(-k // group_size)
    codes = random.integers(0, (1 << bits) + starred, (n, k), dtype=np.uint16)
    zero = np.full((n, groups), 1 << (bits - 1)) if starred else random.integers(0, 1 << bits, (n, groups))
    scale = random.uniform(0.01, 0.02, (n, groups)).astype(np.float32)
    return pack_weight(codes, planes, scale, zero, group_size, None, act_bits)


def _engine_contender(
    name: str, x: NDArray[np.float32], weight: PackedWeight, act_bits: int, threads: int
) -> _Contender:
    path = dispatch.path_for(weight, len(x), act_bits)
    exact = _is_exact(x, weight, act_bits, path, threads)

    def run() -> NDArray[np.float32]:
        return dispatch.linear(x, weight, act_bits, threads)

    return _Contender(name, "abq", path, weight.nbytes, exact, run)


def _is_exact(x: NDArray[np.float32], weight: PackedWeight, act_bits: int, path: str, threads: int) -> bool:
    """Whether some tokens' sums, of all rows, equal the int64 reference; A16 and NumPy: outputs within rounding."""
    tokens = np.unique(np.linspace(0, len(x) - 1, _CHECKED_TOKENS).astype(int))
    y = dispatch.linear(x, weight, act_bits, threads)[tokens]
    integers = None
    if path not in (dispatch.DEQUANTIZED, dispatch.NUMPY):
        integers = dispatch.exact_integers(x, weight, act_bits, threads)[tokens]
    for start in range(0, weight.n, _CHECKED_ROWS):
        rows = slice(start, min(start + _CHECKED_ROWS, weight.n))
        if act_bits == 16:
            expected = x[tokens].astype(np.float64) @ weight.dequantize(rows.start, rows.stop).T.astype(np.float64)
        else:
            act_codes, act_scale, act_zero, _ = quantize_activations(x[tokens], act_bits, weight.act_clip)
            codes, zero = weight.codes(rows.start, rows.stop), weight.zero[rows]
            totals = reference.integer_totals(act_codes, act_zero, codes, zero, weight.segment)
            if integers is not None and not np.array_equal(integers[:, rows], totals):
                return False
            expected = reference.linear_from_totals(totals, act_scale, weight.scale[rows], None)
        if not np.allclose(y[:, rows], expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max())):
            return False
    return True


def _measure(
    contenders: list[_Contender], n: int, k: int, m: int, threads: int, ceiling: float
) -> Iterator[KernelMeasurement]:
    samples = _alternate([contender.run for contender in contenders], threads)
    medians = [float(np.median(warm)) for warm, _ in samples]
    baselines = {c.engine: median for c, median in zip(contenders, medians, strict=True) if c.engine != "abq"}
    for contender, (warm, cold), median in zip(contenders, samples, medians, strict=True):
        low, high = np.percentile(warm, [25, 75])
        yield KernelMeasurement(
            precision=contender.precision,
            n=n,
            k=k,
            m=m,
            engine=contender.engine,
            path=contender.path,
            median_us=median * 1e6,
            iqr_us=float(high - low) * 1e6,
            cold_us=float(np.median(cold)) * 1e6,
            exact=contender.exact,
            speedup={engine: baseline / median for engine, baseline in baselines.items()},
            packed_bytes=contender.packed_bytes,
            bytes_moved=contender.packed_bytes + 4 * m * (n + k),
            threads=threads,
            device="cpu",
            read_gb_per_second=ceiling,
        )


def _alternate(runs: list[Callable[[], Any]], threads: int) -> list[tuple[list[float], list[float]]]:
    """(warm, cold) seconds per call of each, sampled in turn, so that what else the machine does hits all alike."""
    clock = clock_of(threads)

    def seconds(run: Callable[[], Any], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            run()
        return (clock() - start) / repeats

    once = [max(seconds(run, 1) for _ in range(2)) for run in runs]
    repeats = [max(1, int(_SAMPLE_SECONDS / max(first, 1e-6))) for first in once]
    round_seconds = sum((count + 1) * first for count, first in zip(repeats, once, strict=True))
    rounds = int(np.clip(_BUDGET_SECONDS / round_seconds, _MIN_ROUNDS, _MAX_ROUNDS))
    samples: list[tuple[list[float], list[float]]] = [([], []) for _ in runs]
    for _ in range(rounds):
        for run, count, (warm, cold) in zip(runs, repeats, samples, strict=True):
            cold.append(seconds(run, 1))
            warm.append(seconds(run, count))
    return samples


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
