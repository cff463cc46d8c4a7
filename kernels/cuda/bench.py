"""Benchmark of the GPU engine against other libraries.

All calls run in CUDA graphs, and results are checked before timing.
Warm: a graph of calls with one weight. Cold: a graph of calls that rotate over copies of the weight, together a few
times the L2 cache, so that each call reads its weight from memory. The graphs of a shape are replayed alternately.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernels.cuda.bench_weight import BenchWeight, random_bench_weight
from kernels.cuda.ceiling import CeilingDevice, measure_ceilings
from kernels.cuda.peers import LeftOut, PeerSet, Product
from kernels.measurement import KernelMeasurement, baselines, spread
from kernels.precision_names import parse_precision, weight_bits

if TYPE_CHECKING:
    from torch import Tensor

_WARM_CALLS, _WARM_SECONDS = (3, 20), 1e-3  # per graph: several calls, because the first one finds a cold cache
_CACHES = 3  # size of the copies of a weight, in L2 caches
_ROUNDS = 25
_THREADS = 4  # threads that pack weights; each needs a few times the memory of the codes
_COMPILING_SECONDS = 120.0

logger = logging.getLogger(__name__)


class Recorder(CeilingDevice, Protocol):
    """The device interface of the benchmark (`kernels.cuda.driver.CudaDevice`)."""

    name: str

    @property
    def cache_bytes(self) -> int:
        """Size of the last-level cache."""

    def record(self, runs: list[Callable[[], object]]) -> Callable[[], float]:
        """Capture all runs in a CUDA graph.

        Calling the result replays it and returns the seconds per run.
        """

    def copy_gb_per_second(self) -> float:
        """Memory bandwidth of a large copy in GB/s, reads and writes together."""


@dataclass(frozen=True)
class Limits:
    """Measured limits of a device: copy bandwidth in GB/s, peak operations per second by kind."""

    gb_per_second: float
    operations_per_second: dict[str, float]


@dataclass(frozen=True)
class _Contender:
    product: Product
    exact: bool
    warm: Callable[[], float]  # replays a graph and returns the seconds per product
    cold: Callable[[], float]


def bench_gpu(
    on: Recorder,
    precisions: list[str],
    shapes: list[tuple[int, int]],
    m: list[int],
    on_measurement: Callable[[KernelMeasurement], None] | None = None,
    on_left_out: Callable[[LeftOut], None] = logger.warning,
    on_limits: Callable[[Limits], None] | None = None,
    compiling_seconds: float = _COMPILING_SECONDS,
) -> list[KernelMeasurement]:
    """Time every precision and the peers on every (n, k) shape and m, with float16 activations.

    Our times include quantizing and packing the activations; see `kernels.cuda.peers` for the peers. A peer that is
    missing, fails or computes wrong results is reported to on_left_out.  compiling_seconds: total time for peers that
    compile at their first calls.  read_gb_per_second of a row is the device's copy bandwidth.
    Raises BenchError for an unknown precision, and CeilingError.
    """
    for name in precisions:
        parse_precision(name)
    limits = Limits(on.copy_gb_per_second(), measure_ceilings(on))
    if on_limits is not None:
        on_limits(limits)
    peer_set = PeerSet(on_left_out, compiling_seconds)
    measurements = []
    for n, k in shapes:
        weights = _bench_weights(on, precisions, n, k)
        random = np.random.default_rng(n * 31 + k)
        full = _tensor(random.standard_normal((n, k), np.float32), on)
        for tokens in m:
            x = _tensor(random.standard_normal((tokens, k), np.float32), on)
            contenders = [_recorded(on, weight.is_exact(x), weight.product(x)) for weight in weights]
            contenders += peer_set.record_all(full, x, partial(_copies_of, on), partial(_recorded, on, True))
            for measurement in _measure(on.name, contenders, (n, k, tokens), limits):
                measurements.append(measurement)
                if on_measurement is not None:
                    on_measurement(measurement)
    return measurements


def _bench_weights(on: Recorder, precisions: list[str], n: int, k: int) -> list[BenchWeight]:
    """One weight per precision. NumPy releases the GIL while it packs, so threads help."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        made = [
            pool.submit(random_bench_weight, name, n, k, seed, on.place, partial(_copies_of, on))
            for seed, name in enumerate(precisions)
        ]
        return [future.result() for future in made]


def _copies_of(on: Recorder, size: int) -> int:
    """Number of weights of this size that exceed the cache a few times; at least two.

    With one, every call would find its weight in the cache.
    """
    return max(2, -(-_CACHES * on.cache_bytes // size))


def _tensor(values: np.ndarray, on: Recorder) -> Tensor:
    import torch

    return torch.from_numpy(values).to(on.place, torch.float16)


def _recorded(on: Recorder, exact: bool, product: Product) -> _Contender:
    """Capture both graphs.

    The warm graph repeats the product so often that it takes about a millisecond.
    """
    cold = on.record([partial(product.multiply, weight) for weight in product.weights])
    calls = int(np.clip(_WARM_SECONDS / cold(), *_WARM_CALLS))
    warm = on.record([partial(product.multiply, product.weights[0])] * calls)
    return _Contender(product, exact, warm, cold)


def _measure(
    device: str, contenders: list[_Contender], shape: tuple[int, int, int], limits: Limits
) -> Iterator[KernelMeasurement]:
    n, k, m = shape
    samples: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
    for _ in range(_ROUNDS):
        for contender, (warm, cold) in zip(contenders, samples, strict=True):
            cold.append(contender.cold())
            warm.append(contender.warm())
    medians = [float(np.median(warm)) for warm, _ in samples]
    products = [contender.product for contender in contenders]
    peers = [
        (p.engine, weight_bits(p.precision), t) for p, t in zip(products, medians, strict=True) if p.engine != "abq"
    ]
    for contender, median, (warm, cold) in zip(contenders, medians, samples, strict=True):
        product = contender.product
        compared = baselines(weight_bits(product.precision), peers)
        ceiling = limits.operations_per_second.get(product.kind)
        yield KernelMeasurement(
            precision=product.precision,
            n=n,
            k=k,
            m=m,
            engine=product.engine,
            path=product.path,
            median_us=median * 1e6,
            iqr_us=spread(warm) * 1e6,
            cold_us=float(np.median(cold)) * 1e6,
            cold_iqr_us=spread(cold) * 1e6,
            exact=contender.exact,
            speedup={engine: baseline / median for engine, baseline in compared.items()},
            packed_bytes=product.weight_bytes,
            bytes_moved=product.weight_bytes + 2 * m * (n + k),
            threads=1,
            device=device,
            read_gb_per_second=limits.gb_per_second,
            operations=2 * product.bit_products * m * n * k,
            ceiling_gop_per_second=None if ceiling is None else ceiling / 1e9,
        )
