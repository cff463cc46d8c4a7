"""Alternating timings of the CPU engine and other engines.

Every result is checked against exact integers first.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import dispatch
from kernels.benchmark.bandwidth import read_bandwidth
from kernels.benchmark.peers import Peer, is_exact, make_peers
from kernels.benchmark.timing import alternate, copies_beyond_cache
from kernels.cpu.paths import DEQUANTIZED
from kernels.formats import reference
from kernels.formats.activations import quantize_activations
from kernels.formats.random_weight import random_weight
from kernels.formats.weight import PackedWeight
from kernels.host.threads import thread_count
from kernels.measurement import KernelMeasurement, baselines, spread
from kernels.precision_names import BenchError, parse_precision, weight_bits

_BUDGET_SECONDS = 0.3  # timing per contender, shape and m
_CHECKED_TOKENS = 4
_CHECKED_ROWS = 1024
_CEILING_BYTES = 256 << 20  # larger than most caches


@dataclass(frozen=True)
class Matrix:
    """The cases of a benchmark: every precision on every shape (n, k) at every m.

    threads: the number of threads.

    """

    precisions: list[str]
    shapes: list[tuple[int, int]]
    m: list[int]
    threads: int


QUICK = Matrix(["W2A8", "W4A8", "W8A8", "W2A2"], [(4096, 4096)], [1, 8, 64], 1)


@dataclass(frozen=True)
class _Contender:
    precision: str
    engine: str
    path: str
    packed_bytes: int
    exact: bool
    runs: Sequence[Callable[[], Any]]  # one per copy of the weight

    @property
    def weight_bits(self) -> int:
        return weight_bits(self.precision)


def bench_kernels(
    precisions: list[str],
    shapes: list[tuple[int, int]],
    m: list[int],
    threads: int | None = None,
    on_measurement: Callable[[KernelMeasurement], None] | None = None,
    peers: Sequence[str] = ("torch",),
) -> list[KernelMeasurement]:
    """Time every precision and the peers on every (n, k) shape and m.

    precisions: such as "W2A8", "W2*A8", "W4A4g128", "W4A16".
    peers: names in `kernels.benchmark.peers.PEERS`; a peer that does not support a shape is omitted for it.
    Each shape and m is one alternating run of a few seconds. Raises BenchError for an invalid name, shape or m, and
    PeerMissingError.
    """
    parsed = {name: parse_precision(name) for name in precisions}
    if not parsed or not shapes or not m or min(m) < 1 or min(min(shape) for shape in shapes) < 1:
        raise BenchError(
            f"nothing to measure: precisions {precisions}, shapes {shapes}, m {m}; each needs a positive entry"
        )
    count = thread_count(threads)
    ceiling = read_bandwidth(count, _CEILING_BYTES)
    measurements = []
    with _torch_threads(count):
        for n, k in shapes:
            random = np.random.default_rng(n * 31 + k)
            weights = {name: _with_copies(random_weight(random, n, k, *parts)) for name, parts in parsed.items()}
            others = make_peers(list(peers), n, k, copies_beyond_cache, count)
            for tokens in m:
                x = random.standard_normal((tokens, k), np.float32)
                contenders = [_engine_contender(name, x, weights[name], parsed[name][2], count) for name in parsed]
                contenders += [_peer_contender(peer, x) for peer in others]
                for measurement in _measure(contenders, n, k, tokens, count, ceiling):
                    measurements.append(measurement)
                    if on_measurement is not None:
                        on_measurement(measurement)
    return measurements


def _with_copies(weight: PackedWeight) -> list[PackedWeight]:
    return [weight, *(weight.copy() for _ in range(1, copies_beyond_cache(weight.nbytes)))]


def _engine_contender(
    name: str, x: NDArray[np.float32], weights: list[PackedWeight], act_bits: int, threads: int
) -> _Contender:
    path = dispatch.path_for(weights[0], len(x), act_bits)
    exact = _is_exact(x, weights[0], act_bits, path, threads)
    runs = [partial(dispatch.linear, x, weight, act_bits, threads) for weight in weights]
    return _Contender(name, "abq", path, weights[0].nbytes, exact, runs)


def _peer_contender(peer: Peer, x: NDArray[np.float32]) -> _Contender:
    return _Contender(
        peer.precision, peer.engine, peer.path, peer.weight_bytes, is_exact(peer, len(x)), peer.bind(x)
    )  # fmt: skip


def _is_exact(x: NDArray[np.float32], weight: PackedWeight, act_bits: int, path: str, threads: int) -> bool:
    """Whether a sample of tokens equals the int64 reference in all rows.

    A16 and NumPy: within rounding.
    """
    tokens = np.unique(np.linspace(0, len(x) - 1, _CHECKED_TOKENS).astype(int))
    y = dispatch.linear(x, weight, act_bits, threads)[tokens]
    integers = None
    if path not in (DEQUANTIZED, dispatch.NUMPY):
        integers = dispatch.exact_integers(x, weight, act_bits, threads)[tokens]
    for start in range(0, weight.n, _CHECKED_ROWS):
        rows = slice(start, min(start + _CHECKED_ROWS, weight.n))
        if act_bits == 16:
            expected = x[tokens].astype(np.float64) @ weight.dequantize(rows.start, rows.stop).T.astype(np.float64)
        else:
            act_codes, act_scale, act_zero, _ = quantize_activations(x[tokens], act_bits, weight.act_clip)
            levels, zero = weight.levels(rows.start, rows.stop), weight.zero[rows]
            totals = reference.integer_totals(act_codes, act_zero, levels, zero, weight.segment)
            if integers is not None and not np.array_equal(integers[:, rows], totals):
                return False
            expected = reference.linear_from_totals(totals, act_scale, weight.scale[rows], None)
        if not np.allclose(y[:, rows], expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max())):
            return False
    return True


def _measure(
    contenders: list[_Contender], n: int, k: int, m: int, threads: int, ceiling: float
) -> Iterator[KernelMeasurement]:
    samples = alternate([contender.runs for contender in contenders], threads, _BUDGET_SECONDS * len(contenders))
    medians = [float(np.median(sample.warm)) for sample in samples]
    pairs = list(zip(contenders, medians, strict=True))
    peers = [(c.engine, c.weight_bits, median) for c, median in pairs if c.engine != "abq"]
    for (contender, median), sample in zip(pairs, samples, strict=True):
        yield KernelMeasurement(
            precision=contender.precision,
            n=n,
            k=k,
            m=m,
            engine=contender.engine,
            path=contender.path,
            median_us=median * 1e6,
            iqr_us=spread(sample.warm) * 1e6,
            cold_us=float(np.median(sample.cold)) * 1e6,
            cold_iqr_us=spread(sample.cold) * 1e6,
            exact=contender.exact,
            speedup={engine: baseline / median for engine, baseline in baselines(contender.weight_bits, peers).items()},
            packed_bytes=contender.packed_bytes,
            bytes_moved=contender.packed_bytes + 4 * m * (n + k),
            threads=threads,
            device="cpu",
            read_gb_per_second=ceiling,
        )


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
