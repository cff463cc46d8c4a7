"""Times the engine against others, all in one run and in turn, after checking every result against exact integers."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import dispatch, reference
from kernels.activations import quantize_activations
from kernels.bandwidth import read_bandwidth
from kernels.peers import Peer, is_exact, make_peers
from kernels.threads import thread_count
from kernels.timing import alternate, copies_beyond_cache
from kernels.weight import PackedWeight, pack_weight

_BUDGET_SECONDS = 0.3  # of timing for each contender, shape and m
_CHECKED_TOKENS = 4
_CHECKED_ROWS = 1024
_CEILING_BYTES = 256 << 20  # more than most caches hold
_NAME = re.compile(r"W(?P<p>\d+)(?P<star>\*)?A(?P<q>\d+)(?:g(?P<group>\d+))?(?:kv\d+)?", re.IGNORECASE)


class BenchError(ValueError):
    """A benchmark that cannot be run as asked."""


@dataclass(frozen=True)
class Matrix:
    """What to measure: every precision on every shape (n, k) at every m, on so many threads."""

    precisions: list[str]
    shapes: list[tuple[int, int]]
    m: list[int]
    threads: int


QUICK = Matrix(["W2A8", "W4A8", "W8A8", "W2A2"], [(4096, 4096)], [1, 8, 64], 1)


@dataclass(frozen=True)
class KernelMeasurement:
    """One engine on one shape. Times are of the whole product, quantizing and packing the activations included.

    median_us is warm: the call before was the same one.  cold_us is of calls that rotate over copies of the weight,
    more than the last-level cache holds.  speedup compares warm with warm, with each engine's narrowest weights that
    hold as many bits, and the fastest of those.
    """

    precision: str
    n: int
    k: int
    m: int
    engine: str  # "abq", "torch-fp32", "torch-bf16", "torch-int8", "torch-int4pack", "onnxruntime" or "llama.cpp"
    path: str
    median_us: float
    iqr_us: float
    cold_us: float
    exact: bool  # equal to exact integers, the output's rounding aside (A16: within rounding of the float product)
    speedup: dict[str, float] = field(compare=False)  # baseline's median / this median, per baseline
    packed_bytes: int
    bytes_moved: int  # weight, activations and outputs, once each
    threads: int
    device: str
    read_gb_per_second: float  # of this machine with these threads: what streaming a weight can reach
    cold_iqr_us: float | None = None
    operations: int | None = None  # 2 p q m n k where bits are multiplied, else 2 m n k; None on a CPU
    ceiling_gop_per_second: float | None = None  # what such operations were measured to reach at most

    @property
    def limit(self) -> tuple[str, float] | None:
        """("memory" or "operations", share): what binds, and how much of it the cold time reaches; None: not known."""
        if self.operations is None or self.ceiling_gop_per_second is None:
            return None
        memory = self.bytes_moved / self.read_gb_per_second / 1e3
        operations = self.operations / self.ceiling_gop_per_second / 1e3
        name = "memory" if memory >= operations else "operations"
        return name, max(memory, operations) / self.cold_us


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


def weight_bits(precision: str) -> int:
    """Bits that hold every level of a name such as "W2*A8", "FP16" or "BF16": a star has one more than its digit's."""
    return int(re.findall(r"\d+", precision)[0]) + precision.count("*")


def bench_kernels(
    precisions: list[str],
    shapes: list[tuple[int, int]],
    m: list[int],
    threads: int | None = None,
    on_measurement: Callable[[KernelMeasurement], None] | None = None,
    peers: Sequence[str] = ("torch",),
) -> list[KernelMeasurement]:
    """Time every precision ("W2A8", "W2*A8", "W4A4g128", "W4A16") and the peers on every (n, k) shape and m.

    peers: of `kernels.peers.PEERS`; where one cannot hold a shape, it is left out there.
    Each shape and m is one alternating run of seconds. Raises BenchError where a name, shape or m is no such, and
    PeerMissingError.
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


def parse_precision(name: str) -> tuple[int, bool, int, int | None]:
    """(weight bits, starred, activation bits, group size) of a name such as "W2*A8g128". Raises BenchError."""
    match = _NAME.fullmatch(name.strip())
    if match is None or not 1 <= int(match["p"]) <= 8 or int(match["q"]) not in (*range(1, 9), 16):
        raise BenchError(
            f"'{name}' is no precision the kernels have: W1..W8, a star or none, A1..A8 or A16, e.g. W2*A8"
        )
    return int(match["p"]), match["star"] is not None, int(match["q"]), int(match["group"]) if match["group"] else None


def random_weight(
    random: np.random.Generator, n: int, k: int, bits: int, starred: bool, act_bits: int, group_size: int | None
) -> PackedWeight:
    """A weight (n, k) of random codes, scales and zero points; group_size None: one scale a row."""
    planes = bits + 1 if starred else bits
    groups = 1 if group_size is None else -(-k // group_size)
    codes = random.integers(0, (1 << bits) + starred, (n, k), dtype=np.uint16)
    zero = np.full((n, groups), 1 << (bits - 1)) if starred else random.integers(0, 1 << bits, (n, groups))
    scale = random.uniform(0.01, 0.02, (n, groups)).astype(np.float32)
    return pack_weight(codes, planes, scale, zero, group_size, None, act_bits)


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


def spread(seconds: list[float]) -> float:
    """The interquartile range."""
    low, high = np.percentile(seconds, [25, 75])
    return float(high - low)


def baselines(bits: int, peers: Sequence[tuple[str, int, float]]) -> dict[str, float]:
    """The median to compare with, per engine: of its fastest among its narrowest weights that hold as many bits.

    peers: (engine, bits of a weight, median) of each.
    """
    found: dict[str, tuple[int, float]] = {}
    for engine, held, median in peers:
        if held >= bits and (held, median) < found.get(engine, (99, 0.0)):
            found[engine] = (held, median)
    return {engine: median for engine, (_, median) in found.items()}


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
