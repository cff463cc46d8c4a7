"""Whether a mix of precisions is worth it: its measured KL against the best uniform precision of its size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abq_core.mix import ModelPrecision, PrecisionMix
from app.formatting import bits, nats, number
from app.services.dataframes import same_evaluation

Row = Mapping[str, Any]


@dataclass(frozen=True)
class MixCheck:
    """An evaluated run of a mix, and the best run with one precision for all linears that is no larger.

    mix, uniform: rows of `runs_frame`. uniform is None if there is none of the same method and KV bits, with no more
    bit operations, that was evaluated on the same text.
    """

    mix: Row
    uniform: Row | None

    @property
    def kept(self) -> bool | None:
        """Whether the mix has the lower KL; None if there is nothing to compare it with."""
        return None if self.uniform is None else bool(self.mix["kl_mean"] < self.uniform["kl_mean"])

    @property
    def verdict(self) -> str:
        """What to do, in one sentence."""
        mix, uniform = self.mix, self.uniform
        if uniform is None:
            return (
                f"Not compared: no uniform precision of at most {bits(mix['bits_per_parameter'])} bits per parameter "
                f"and no more bit operations was calibrated with {mix['method']} and evaluated on the same text."
            )
        both = f"{nats(mix['kl_mean'])} against {nats(uniform['kl_mean'])}"
        if self.kept:
            return f"Keep the mix: its KL is {both} of {uniform['precision']}."
        return f"Take {uniform['precision']}, which is no larger: the mix has a KL of {both}."

    def to_dict(self) -> dict[str, object]:
        """The runs, their bits and KL, `kept` and `verdict`, ready for JSON."""
        names = ("run", "precision", "bits_per_parameter", "kl_mean")
        uniform = {f"uniform_{name}": None if self.uniform is None else self.uniform[name] for name in names}
        of_mix = {name: self.mix[name] for name in (*names, "method")}
        return {**of_mix, **uniform, "kept": self.kept, "verdict": self.verdict}


def check_mixes(rows: Sequence[tuple[Row, ModelPrecision]]) -> list[MixCheck]:
    """One check per mix, in order.  rows: evaluated runs of one model with their precisions."""
    mixes = [(row, precision) for row, precision in rows if isinstance(precision, PrecisionMix)]
    return [MixCheck(row, _best_uniform(row, precision, rows)) for row, precision in mixes]


def _best_uniform(mix: Row, precision: PrecisionMix, rows: Sequence[tuple[Row, ModelPrecision]]) -> Row | None:
    """The comparable run with the lowest KL that is no larger than the mix."""
    comparable = [
        row
        for row, other in rows
        if not isinstance(other, PrecisionMix)
        and other.kv_bits == precision.kv_bits
        and other.bit_operations <= precision.bit_operations
        and row["method"] == mix["method"]
        and same_evaluation(row, mix)
        and _bytes(row, mix) <= _bytes(mix, row)
    ]
    return min(comparable, key=lambda row: float(row["kl_mean"]), default=None)


def _bytes(one: Row, other: Row) -> float:
    """Bytes of the whole model; of its linears if one evaluation is of an earlier version, which has only those."""
    whole = [number(row["model_bytes"]) for row in (one, other)]
    return float(one["weight_bytes"] if None in whole else one["model_bytes"])
