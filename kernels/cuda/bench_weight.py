"""A random weight for the GPU benchmark: its copies, and a check of its products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kernels.cuda import engine
from kernels.cuda.ceiling import BITS, FP16_LIBRARY, INT8, INT8_LIBRARY
from kernels.cuda.device_tensors import DeviceWeight, upload
from kernels.cuda.peers import Product
from kernels.cuda.peers.peer import checked_tokens
from kernels.cuda.tiles import BINARY, BYTES, LIBRARY
from kernels.formats.activations import quantize_activations
from kernels.formats.random_weight import random_weight
from kernels.formats.weight import PackedWeight
from kernels.precision_names import parse_precision

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = {
    engine.PATHS[BINARY]: BITS,
    engine.PATHS[BYTES]: INT8,
    engine.PATHS[LIBRARY]: INT8_LIBRARY,
    engine.DEQUANTIZED: FP16_LIBRARY,
}


@dataclass(frozen=True, eq=False)
class BenchWeight:
    """A random weight (n, k) of one precision on a device. Made by `random_bench_weight`."""

    precision: str
    act_bits: int
    packed: PackedWeight
    weights: list[DeviceWeight]  # equal copies in different memory
    levels: Tensor  # (n, k) int16, spacing code - zero

    def product(self, x: Tensor) -> Product:
        """The product to time for tokens x (m, k) float16, their quantization included."""
        weight = self.weights[0]
        path = engine.path_for(weight, len(x), self.act_bits)
        return Product(
            engine="abq",
            precision=self.precision,
            path=path,
            weight_bytes=weight.nbytes,
            weights=self.weights,
            multiply=lambda copy: engine.linear(x, copy, self.act_bits),
            kind=_KINDS[path],
            bit_products=weight.planes * self.act_bits if _KINDS[path] == BITS else 1,
        )

    def is_exact(self, x: Tensor) -> bool:
        """Whether the sums of some tokens are exact; A16: whether outputs are right within rounding."""
        import torch

        weight, tokens = self.weights[0], checked_tokens(len(x), x)
        y = engine.linear(x, weight, self.act_bits)[tokens].double()
        if self.act_bits == 16:
            parts = [part * scale for part, scale in self._parts(x[tokens].double())]
            return _close(y, torch.stack(parts).sum(0), 1e-2)
        codes, act_scale, zero, _ = quantize_activations(
            x[tokens].float().cpu().numpy(), self.act_bits, weight.act_clip
        )
        centred = torch.from_numpy(codes.astype(np.float64) - zero[:, None]).to(x.device)
        sums = engine.exact_integers(x, weight, self.act_bits)[tokens].double()
        expected = torch.zeros_like(y)
        for group, (part, scale) in enumerate(self._parts(centred)):
            if not torch.equal(sums[:, :, group], part):
                return False
            expected += part * scale
        return _close(y, expected * torch.from_numpy(act_scale).to(x.device).double()[:, None], 2e-3)

    def _parts(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (tokens x levels (m, n), scale (n,)) of each group, in float64.

        Exact for integers below 2^53.
        """
        import torch

        weight = self.weights[0]
        for start in range(0, weight.k, weight.segment):
            columns = slice(start, min(start + weight.segment, weight.k))
            scale = torch.from_numpy(self.packed.scale[:, start // self.packed.segment]).to(tokens.device)
            yield tokens[:, columns] @ self.levels[:, columns].double().T, scale.double()


def _close(y: Tensor, expected: Tensor, tolerance: float) -> bool:
    import torch

    return torch.allclose(y, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def random_bench_weight(
    precision: str, n: int, k: int, seed: int, place: str, copies_of: Callable[[int], int]
) -> BenchWeight:
    """A weight of random codes, scales and zero points.

    place: a torch device such as "cuda:0".  copies_of(bytes): number of copies of a weight of that size.
    Raises BenchError.
    """
    import torch

    bits, starred, act_bits, group_size = parse_precision(precision)
    packed = random_weight(np.random.default_rng((seed, n, k)), n, k, bits, starred, act_bits, group_size)
    weight = upload(packed, place)
    copies = [weight.copy() for _ in range(copies_of(weight.nbytes) - 1)]
    levels = packed.levels()
    for segment in range(packed.groups):
        columns = slice(segment * packed.segment, (segment + 1) * packed.segment)
        levels[:, columns] -= packed.zero[:, segment : segment + 1]
    return BenchWeight(precision, act_bits, packed, [weight, *copies], torch.from_numpy(levels).to(place))
