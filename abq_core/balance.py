"""Balance vectors: how far each channel's difficulty is moved from activations into weights, and how they fold away.

Y = (X / s)(s W). The division by s goes into the norm or the linear before, the multiplication into the linears after:
at run time nothing is left of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abq_core.architectures import Architecture
from abq_core.quant_linear import linears_of

_FLOOR = 1e-5


@dataclass(frozen=True)
class HeadLayout:
    """How a block's attention channels divide into heads."""

    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: object) -> "HeadLayout":
        heads = int(getattr(config, "num_attention_heads", 1))
        head_dim = getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads) // heads
        return cls(heads, int(getattr(config, "num_key_value_heads", None) or heads), int(head_dim))

    def to_queries(self, per_kv_channel: Tensor) -> Tensor:
        """(kv_heads * head_dim,) -> (heads * head_dim,): each kv head serves a group of query heads."""
        grouped = per_kv_channel.view(self.kv_heads, 1, self.head_dim)
        return grouped.expand(-1, self.heads // self.kv_heads, -1).reshape(-1)


class Balance:
    """The balance pairs of one block: their starting values, and the parameters that follow from given ones.

    A pair is named `first>second`; its values s are positive, one per channel between the two.
    """

    def __init__(self, architecture: Architecture, layout: HeadLayout, block: nn.Module) -> None:
        self.architecture = architecture
        self.layout = layout
        self.names = frozenset(name for name, _ in block.named_parameters())
        self.linears = frozenset(linears_of(block))

    def start(
        self, parameters: Mapping[str, Tensor], input_peaks: Mapping[str, Tensor], alpha: float = 0.5
    ) -> dict[str, Tensor]:
        """SmoothQuant's values, s = max|X|^alpha / max|W|^(1 - alpha); one for query_key, whose product needs no start.

        input_peaks: for each linear max|X| per input channel.
        """
        values = {}
        for norm, readers in self._norms():
            weight_peak = torch.stack([parameters[f"{r}.weight"].abs().amax(0) for r in readers]).amax(0)
            values[f"{norm}>{'+'.join(_last(r) for r in readers)}"] = _smooth(
                input_peaks[readers[0]], weight_peak, alpha
            )
        for first, second in self._chain():
            weight_peak = parameters[f"{second}.weight"].abs().amax(0)
            values[f"{first}>{second}"] = _smooth(input_peaks[second], weight_peak, alpha)
        if pair := self._pair(self.architecture.value_output):
            peaks = [
                self._per_kv_channel(t) for t in (input_peaks[pair[1]], parameters[f"{pair[1]}.weight"].abs().amax(0))
            ]
            values[f"{pair[0]}>{pair[1]}"] = _smooth(peaks[0], peaks[1], alpha)
        if pair := self._pair(self.architecture.query_key):
            channels = self.layout.kv_heads * self.layout.head_dim // (2 if self.architecture.rotary else 1)
            values[f"{pair[0]}>{pair[1]}"] = torch.ones(channels)
        return values

    def fold(self, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The block's parameters with the balance folded in: the same function in full precision. Differentiable."""
        folded = dict(parameters)
        for norm, readers in self._norms():
            s = values[f"{norm}>{'+'.join(_last(r) for r in readers)}"]
            offset = self.architecture.gain_offset
            folded[f"{norm}.weight"] = (folded[f"{norm}.weight"] + offset) / s - offset
            if f"{norm}.bias" in folded:
                folded[f"{norm}.bias"] = folded[f"{norm}.bias"] / s
            for reader in readers:
                folded[f"{reader}.weight"] = folded[f"{reader}.weight"] * s
        for first, second in self._chain():
            s = values[f"{first}>{second}"]
            self._scale_rows(folded, first, 1 / s)
            folded[f"{second}.weight"] = folded[f"{second}.weight"] * s
        if pair := self._pair(self.architecture.value_output):
            s = values[f"{pair[0]}>{pair[1]}"]
            self._scale_rows(folded, pair[0], 1 / s)
            folded[f"{pair[1]}.weight"] = folded[f"{pair[1]}.weight"] * self.layout.to_queries(s)
        if pair := self._pair(self.architecture.query_key):
            s = values[f"{pair[0]}>{pair[1]}"]
            if self.architecture.rotary:  # RoPE rotates channel j with channel j + head_dim / 2: they share a value
                s = s.view(self.layout.kv_heads, 1, -1).expand(-1, 2, -1).reshape(-1)
            self._scale_rows(folded, pair[0], self.layout.to_queries(s))
            self._scale_rows(folded, pair[1], 1 / s)
        return folded

    def _scale_rows(self, folded: dict[str, Tensor], linear: str, factor: Tensor) -> None:
        folded[f"{linear}.weight"] = folded[f"{linear}.weight"] * factor.unsqueeze(1)
        if f"{linear}.bias" in folded:
            folded[f"{linear}.bias"] = folded[f"{linear}.bias"] * factor

    def _norms(self) -> list[tuple[str, tuple[str, ...]]]:
        """The norm pairs that this block has: a norm without gain cannot take a division."""
        return [
            (n, r) for n, r in self.architecture.norms if f"{n}.weight" in self.names and self.linears.issuperset(r)
        ]

    def _chain(self) -> list[tuple[str, str]]:
        return [pair for pair in self.architecture.chain if self.linears.issuperset(pair)]

    def _pair(self, pair: tuple[str, str] | None) -> tuple[str, str] | None:
        return pair if pair is not None and self.linears.issuperset(pair) else None

    def _per_kv_channel(self, per_query_channel: Tensor) -> Tensor:
        """The largest value over the query heads that share a kv channel."""
        return per_query_channel.view(self.layout.kv_heads, -1, self.layout.head_dim).amax(1).reshape(-1)


def _smooth(input_peak: Tensor, weight_peak: Tensor, alpha: float) -> Tensor:
    return input_peak.clamp(min=_FLOOR) ** alpha / weight_peak.clamp(min=_FLOOR) ** (1 - alpha)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
