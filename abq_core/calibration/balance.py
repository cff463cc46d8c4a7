"""Balance vectors: per-channel factors that move range from activations to weights.

Y = (X / s)(s W). The division by s is folded into the norm or linear before, the multiplication into the linears that
read it, so there is no cost at run time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import Tensor, nn

from abq_core.models.architectures import Architecture, Rows
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.quantization.quant_linear import linears_of

_FLOOR = 1e-5


class Pair(Protocol):
    """A pair of modules whose shared channels can be rescaled without changing the block."""

    @property
    def name(self) -> str:
        """The key of the pair's balance vector in a block's artifact."""

    def start(self, parameters: Mapping[str, Tensor], input_peaks: Mapping[str, Tensor]) -> Tensor:
        """Starting values, positive, one per channel."""

    def fold(self, folded: dict[str, Tensor], s: Tensor) -> None:
        """Fold s into the parameters in `folded` (name -> tensor), in place."""


@dataclass(frozen=True)
class NormPair:
    """A norm and its readers, the modules that read its output.

    linears: the readers that are linears; their input peaks determine s.
    """

    name: str
    norm: str
    readers: tuple[str, ...]
    linears: tuple[str, ...]
    gain_offset: float

    def start(self, parameters: Mapping[str, Tensor], input_peaks: Mapping[str, Tensor]) -> Tensor:
        """Starting values, positive, (channels,)."""
        weight_peak = torch.stack([parameters[f"{name}.weight"].abs().amax(0) for name in self.linears]).amax(0)
        seen = [
            input_peaks[name] for name in self.linears if name in input_peaks
        ]  # an expert without tokens has no peaks
        return _smooth(torch.stack(seen).amax(0), weight_peak) if seen else torch.ones_like(weight_peak)

    def fold(self, folded: dict[str, Tensor], s: Tensor) -> None:
        """Fold the balance vector `s` into the parameters in `folded`."""
        folded[f"{self.norm}.weight"] = (folded[f"{self.norm}.weight"] + self.gain_offset) / s - self.gain_offset
        if f"{self.norm}.bias" in folded:
            folded[f"{self.norm}.bias"] = folded[f"{self.norm}.bias"] / s
        for reader in self.readers:
            folded[f"{reader}.weight"] = folded[f"{reader}.weight"] * s


@dataclass(frozen=True)
class ChainPair:
    """Rows of a linear and the linear that reads them.

    layout: for value rows read by several query heads.
    """

    name: str
    first: str
    index: Tensor
    second: str
    layout: HeadLayout | None

    def start(self, parameters: Mapping[str, Tensor], input_peaks: Mapping[str, Tensor]) -> Tensor:
        """Starting values, positive, (channels,)."""
        weight_peak = parameters[f"{self.second}.weight"].abs().amax(0)
        if self.second not in input_peaks:  # an expert that received no token
            return torch.ones_like(weight_peak)
        input_peak = input_peaks[self.second]
        if self.layout is not None:
            input_peak, weight_peak = self.layout.per_kv_channel(input_peak), self.layout.per_kv_channel(weight_peak)
        return _smooth(input_peak, weight_peak)

    def fold(self, folded: dict[str, Tensor], s: Tensor) -> None:
        """Fold the balance vector `s` into the parameters in `folded`."""
        _scale_rows(folded, self.first, self.index, 1 / s)
        wide = s if self.layout is None else self.layout.to_queries(s)
        folded[f"{self.second}.weight"] = folded[f"{self.second}.weight"] * wide


@dataclass(frozen=True)
class QueryKeyPair:
    """Query and key rows. Only their product matters, so they start at 1."""

    name: str
    query: str
    query_index: Tensor
    key: str
    key_index: Tensor
    layout: HeadLayout

    def start(self, parameters: Mapping[str, Tensor], input_peaks: Mapping[str, Tensor]) -> Tensor:
        """Starting values, positive, (channels,)."""
        return torch.ones(self.layout.query_key_values, device=parameters[f"{self.key}.weight"].device)

    def fold(self, folded: dict[str, Tensor], s: Tensor) -> None:
        """Fold the balance vector `s` into the parameters in `folded`."""
        keys = self.layout.expand_query_key(s)
        _scale_rows(folded, self.query, self.query_index, self.layout.to_queries(keys))
        _scale_rows(folded, self.key, self.key_index, 1 / keys)


class Balance:
    """The balance pairs of one block, their initial values, and how they are folded in.

    A pair is named `first>second`; its values s are positive, one per channel between the two.
    """

    def __init__(self, architecture: Architecture, layout: HeadLayout, block: nn.Module) -> None:
        self.architecture = architecture
        self._layout = layout
        self._rows = {n.removesuffix(".weight"): len(p) for n, p in block.named_parameters() if n.endswith(".weight")}
        self._linears = frozenset(linears_of(block))
        self.pairs: list[Pair] = [*self._norms(), *self._chains(), *self._query_key()]

    def start(self, parameters: Mapping[str, Tensor], input_peaks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """SmoothQuant's s with alpha = 1/2, sqrt(max|X| / max|W|), or 1 if the input is unknown.

        input_peaks: max|X| per input channel of each linear that received a token.
        """
        return {pair.name: pair.start(parameters, input_peaks) for pair in self.pairs}

    def fold(self, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The block's parameters with the balance folded in, the same function in full precision.

        Differentiable.
        """
        folded = dict(parameters)
        for pair in self.pairs:
            pair.fold(folded, values[pair.name])
        return folded

    def _norms(self) -> Iterator[Pair]:
        """Pairs of norms that have a gain to fold the division into."""
        for norm, patterns in self.architecture.norms:
            found = [self._matching(pattern) for pattern in patterns]
            if norm in self._rows and all(found):
                readers = tuple(name for names in found for name in names)
                name = f"{norm}>{'+'.join(dict.fromkeys(_last(pattern) for pattern in patterns))}"
                linears = tuple(reader for reader in readers if reader in self._linears)
                yield NormPair(name, norm, readers, linears, self.architecture.gain_offset)

    def _chains(self) -> Iterator[Pair]:
        for rows, pattern in self.architecture.chain:
            for first, second in zip(self._matching(rows.linear), self._matching(pattern), strict=True):
                yield self._chain(Rows(first, rows.part, rows.by_head), second, None)
        if self.architecture.value_output is not None:
            value, output = self.architecture.value_output
            if self._linears.issuperset((value.linear, output)):
                yield self._chain(value, output, self._layout)

    def _chain(self, rows: Rows, second: str, layout: HeadLayout | None) -> Pair:
        return ChainPair(f"{rows}>{second}", rows.linear, self._index(rows), second, layout)

    def _query_key(self) -> Iterator[Pair]:
        if self.architecture.query_key is not None:
            query, key = self.architecture.query_key
            if self._linears.issuperset((query.linear, key.linear)):
                indices = self._index(query), self._index(key)
                yield QueryKeyPair(f"{query}>{key}", query.linear, indices[0], key.linear, indices[1], self._layout)

    def _matching(self, pattern: str) -> list[str]:
        """Names of modules with a weight that match a pattern, in the order of the block."""
        return [name for name in self._rows if fnmatchcase(name, pattern)]

    def _index(self, rows: Rows) -> Tensor:
        return self._layout.row_indices(rows, self._rows[rows.linear])


def _scale_rows(folded: dict[str, Tensor], linear: str, index: Tensor, factor: Tensor) -> None:
    """Multiply the rows `index` of a linear, with their bias, by `factor`."""
    weight = folded[f"{linear}.weight"]
    if len(index) < len(weight):
        factor = factor.new_ones(len(weight)).index_copy(0, index.to(factor.device), factor)
    folded[f"{linear}.weight"] = weight * factor.unsqueeze(1)
    if f"{linear}.bias" in folded:
        folded[f"{linear}.bias"] = folded[f"{linear}.bias"] * factor


def _smooth(input_peak: Tensor, weight_peak: Tensor) -> Tensor:
    """SmoothQuant's s, or 1 for a channel that is always zero (dead ReLU).

    A tiny s would amplify rounding errors.
    """
    s = input_peak.clamp(min=_FLOOR).sqrt() / weight_peak.clamp(min=_FLOOR).sqrt()
    return torch.where(input_peak > 0, s, torch.ones_like(s))


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
