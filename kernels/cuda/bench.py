"""Times the GPU engine against torch's libraries on one device: every call inside a CUDA graph, results checked first.

Warm: a graph of calls on one weight. Cold: a graph of calls on equal weights in turn, which together are a few times
the L2 cache, so that each is read from memory. All graphs of a shape are replayed in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kernels.activations import quantize_activations
from kernels.bench import KernelMeasurement, parse_precision, random_weight, spread
from kernels.cuda import engine
from kernels.cuda.operands import DeviceWeight, upload
from kernels.cuda.peers import Peer, gpu_peers
from kernels.weight import PackedWeight

if TYPE_CHECKING:
    from torch import Tensor

_WARM_CALLS = 20
_CACHES = 3
_ROUNDS = 25
_CHECKED_TOKENS = 4


class Recorder(Protocol):
    """The device as the benchmark needs it (`kernels.cuda.driver.CudaDevice`)."""

    name: str
    place: str
    cache_bytes: int

    def record(self, runs: list[Callable[[], object]]) -> Callable[[], float]:
        """A graph of all runs; calling it replays it and gives the seconds of one run."""

    def copy_gb_per_second(self) -> float:
        """Bytes read and written by a large copy, in GB/s."""


@dataclass(frozen=True)
class _Contender:
    peer: Peer
    exact: bool


def bench_gpu(
    on: Recorder,
    precisions: list[str],
    shapes: list[tuple[int, int]],
    m: list[int],
    on_measurement: Callable[[KernelMeasurement], None] | None = None,
) -> list[KernelMeasurement]:
    """Time every precision and torch's libraries on every (n, k) shape and m, on float16 activations.

    Quantizing and packing the activations is part of our time; the peers' are described in `kernels.cuda.peers`.
    read_gb_per_second of a row is the device's copy bandwidth. Raises BenchError where a precision is no such.
    """
    parsed = {name: parse_precision(name) for name in precisions}
    ceiling = on.copy_gb_per_second()
    measurements = []
    for n, k in shapes:
        random = np.random.default_rng(n * 31 + k)
        packed = {name: random_weight(random, n, k, *parts) for name, parts in parsed.items()}
        weights = {name: _copies(upload(weight, on.place), on) for name, weight in packed.items()}
        full = _tensor(random.standard_normal((n, k), np.float32), on)
        for tokens in m:
            x = _tensor(random.standard_normal((tokens, k), np.float32), on)
            ours = []
            for name, (_, _, act_bits, _) in parsed.items():
                exact = _is_exact(packed[name], weights[name][0], x, act_bits)
                ours.append(_Contender(_our_product(name, weights[name], x, act_bits), exact))
            theirs = [_Contender(peer, False) for peer in gpu_peers(full, x, lambda size: _copies_of(size, on))]
            for measurement in _measure(on, ours + theirs, (n, k, tokens), ceiling):
                measurements.append(measurement)
                if on_measurement is not None:
                    on_measurement(measurement)
    return measurements


def _our_product(name: str, weights: list[DeviceWeight], x: Tensor, act_bits: int) -> Peer:
    path = engine.path_for(weights[0], len(x), act_bits)
    return Peer("abq", name, path, weights[0].nbytes, weights, lambda weight: engine.linear(x, weight, act_bits))


def _copies(weight: DeviceWeight, on: Recorder) -> list[DeviceWeight]:
    return [weight] + [
        replace(weight, data=weight.data.clone(), scale=weight.scale.clone(), zero=weight.zero.clone())
        for _ in range(_copies_of(weight.nbytes, on) - 1)
    ]


def _copies_of(size: int, on: Recorder) -> int:
    """So many weights of this size are a few times the cache; at least two, so that none follows itself."""
    return max(2, -(-_CACHES * on.cache_bytes // size))


def _tensor(values: Any, on: Recorder) -> Tensor:
    import torch

    return torch.from_numpy(values).to(on.place, torch.float16)


def _is_exact(packed: PackedWeight, weight: DeviceWeight, x: Tensor, act_bits: int) -> bool:
    """Whether some tokens' sums, of all rows, are the integers they have to be; A16: outputs within rounding."""
    import torch

    place = x.device
    tokens = torch.from_numpy(np.unique(np.linspace(0, len(x) - 1, _CHECKED_TOKENS).astype(int))).to(place)
    y = engine.linear(x, weight, act_bits)[tokens].double()
    if act_bits == 16:
        expected = x[tokens].double() @ torch.from_numpy(packed.dequantize()).to(place).double().T
        return bool(torch.allclose(y, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())))
    codes, scale, zero, _ = quantize_activations(x[tokens].float().cpu().numpy(), act_bits, weight.act_clip)
    centred = torch.from_numpy(codes.astype(np.float64) - zero[:, None]).to(place)
    sums = engine.exact_integers(x, weight, act_bits)[tokens].double()
    expected = torch.zeros_like(y)
    for group in range(weight.groups):
        columns = slice(group * weight.segment, min((group + 1) * weight.segment, packed.k))
        own = columns.start // packed.segment
        levels = torch.from_numpy(packed.codes()[:, columns]).to(place).double()
        levels -= torch.from_numpy(packed.zero[:, own]).to(place).double()[:, None]
        right = centred[:, columns] @ levels.T  # float64 is exact below 2^53
        if not torch.equal(sums[:, :, group], right):
            return False
        expected += right * torch.from_numpy(packed.scale[:, own]).to(place).double()
    expected *= torch.from_numpy(scale).to(place).double()[:, None]
    return bool(torch.allclose(y, expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max())))


def _measure(
    on: Recorder, contenders: list[_Contender], shape: tuple[int, int, int], ceiling: float
) -> Iterator[KernelMeasurement]:
    n, k, m = shape
    graphs = [(on.record(_calls(c.peer, 1, _WARM_CALLS)), on.record(_calls(c.peer, len(c.peer.weights), 1)))
              for c in contenders]  # fmt: skip
    samples: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
    for _ in range(_ROUNDS):
        for (replay_warm, replay_cold), (warm, cold) in zip(graphs, samples, strict=True):
            cold.append(replay_cold())
            warm.append(replay_warm())
    medians = [float(np.median(warm)) for warm, _ in samples]
    pairs = list(zip(contenders, medians, strict=True))
    baselines = {contender.peer.engine: median for contender, median in pairs if contender.peer.engine != "abq"}
    for (contender, median), (warm, cold) in zip(pairs, samples, strict=True):
        peer = contender.peer
        yield KernelMeasurement(
            precision=peer.precision,
            n=n,
            k=k,
            m=m,
            engine=peer.engine,
            path=peer.path,
            median_us=median * 1e6,
            iqr_us=spread(warm) * 1e6,
            cold_us=float(np.median(cold)) * 1e6,
            cold_iqr_us=spread(cold) * 1e6,
            exact=contender.exact,
            speedup={engine: baseline / median for engine, baseline in baselines.items()},
            packed_bytes=peer.weight_bytes,
            bytes_moved=peer.weight_bytes + 2 * m * (n + k),
            threads=1,
            device=on.name,
            read_gb_per_second=ceiling,
        )


def _calls(peer: Peer, weights: int, times: int) -> list[Callable[[], object]]:
    return [partial(peer.multiply, weight) for _ in range(times) for weight in peer.weights[:weights]]
