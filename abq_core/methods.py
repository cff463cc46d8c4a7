"""Calibration methods and their switches, each defined once.

Each switch has a name, values, labels, a help text and a cost.

A new switch is one field of `Switches`. The form, `abq calibrate --switch`, sweep files, stored calibrations, the cost
model and the table in docs/method.md all read the definition from here.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, Field, dataclass, field, fields
from typing import Any, Literal, cast

Balance = Literal["none", "started", "learned"]
MseTerm = Literal["none", "full", "both"]
SwitchValue = bool | str


class SpecError(ValueError):
    """A calibration whose settings are invalid or contradict each other."""


@dataclass(frozen=True)
class SwitchCost:
    """The cost that a switch adds to a calibration.

    Seconds are those of the reference core (planning/cost.py).
    learned_copies: float32 copies of a block's weights that exist while the block learns.
    weight_seconds: per weight, once.  weight_step_seconds: per weight and optimizer step.
    map_copies: float32 copies of a segment's attention maps.  map_seconds: per map entry and optimizer step.
    output_seconds: per element of a block's output in the end-to-end pass.
    made_seconds: per weight, each time a block is rotated: three times in each step of that pass.
    """

    learned_copies: float = 0.0
    weight_seconds: float = 0.0
    weight_step_seconds: float = 0.0
    map_copies: float = 0.0
    map_seconds: float = 0.0
    output_seconds: float = 0.0
    made_seconds: float = 0.0

    def __add__(self, other: "SwitchCost") -> "SwitchCost":
        return SwitchCost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(SwitchCost)))


FREE = SwitchCost()


@dataclass(frozen=True)
class SwitchInfo:
    """The definition of one switch.

    values: from off to strongest, all bool or all str.  labels: one checkbox per value after the first; ticking the
    last implies those before it.  help: one or two sentences.  part_of: a switch without which this one has no effect;
    ticking this one in the form turns that one on.
    """

    name: str
    values: tuple[SwitchValue, ...]
    labels: tuple[str, ...]
    help: str
    cost: SwitchCost = FREE
    part_of: str | None = None

    def read(self, value: object) -> SwitchValue:
        """Convert an untyped value (JSON, YAML, form or command-line text). Raises SpecError.

        Text is compared without regard to case, so `"False"` and `false` are the same.
        """
        texts = {str(known).lower(): known for known in self.values}
        text = value.strip().lower() if isinstance(value, str) else value
        if isinstance(text, bool) and isinstance(self.values[0], bool):
            return text
        if isinstance(text, str) and text in texts:
            return texts[text]
        raise SpecError(f"{self.name} is {str(value)[:80]!r}: use {_alternatives(list(texts))}.")


def _about(
    labels: str | tuple[str, ...],
    help: str,
    *,
    values: tuple[SwitchValue, ...] = (False, True),
    cost: SwitchCost = FREE,
    part_of: str | None = None,
) -> dict[str, Any]:
    """The metadata of a field of `Switches`: all of SwitchInfo but the name."""
    labels = (labels,) if isinstance(labels, str) else labels
    return {"labels": labels, "values": values, "help": help, "cost": cost, "part_of": part_of}


@dataclass(frozen=True)
class Switches:
    """The components of a method; each can be changed on its own.

    Raises SpecError for values that do not fit.
    A method sets the components of the paper; those with a default go beyond it. Form and command lines list the
    switches in this order.
    """

    balance: Balance = field(
        metadata=_about(
            ("balance vectors", "learned balance"),
            "Balance vectors move range from activations to weights, channel by channel: not used, started as "
            "SmoothQuant does, or learned.",
            values=("none", "started", "learned"),
        )
    )
    _: KW_ONLY
    clipping: bool = field(
        metadata=_about("learned clipping", "Learned factors narrow each row's range before rounding.")
    )
    clip_search: bool = field(
        default=False,
        metadata=_about(
            "searched clipping",
            "Clipping starts where rounding has the least squared error; without learned clipping it stays there.",
            cost=SwitchCost(weight_seconds=5.0e-8),
        ),
    )
    act_clipping: bool = field(
        default=False,
        metadata=_about(
            "activation clipping",
            "A learned factor per linear narrows the range of every token that enters it.",
        ),
    )
    compensation: bool = field(
        metadata=_about(
            "compensation", "A learned rank-1 term is added to the down projection of the first and last blocks."
        )
    )
    rounding: bool = field(
        default=False,
        metadata=_about(
            "learned rounding",
            "A learned offset per weight decides between its two neighbouring levels.",
            # The offsets and two optimizer states. Their gradients exist only after the saved activations are freed.
            cost=SwitchCost(learned_copies=3, weight_step_seconds=9.4e-9),
        ),
    )
    dlc: bool = field(
        metadata=_about("DLC", "Loss: double log cosine between a block's output and its full-precision targets.")
    )
    akl: bool = field(
        metadata=_about(
            "AKL",
            "Loss: symmetric KL divergence between attention maps, averaged over heads.",
            cost=SwitchCost(map_copies=4.5, map_seconds=3.6e-8),
        )
    )
    akl_per_head: bool = field(
        default=False,
        metadata=_about(
            "AKL per head",
            "AKL compares the map of every head instead of the mean over heads.",
            cost=SwitchCost(map_copies=9.5),
            part_of="akl",
        ),
    )
    mse: MseTerm = field(
        metadata=_about(
            ("MSE", "MSE on quantized input too"),
            "Loss: squared error against the full-precision block on full-precision input (`full`), or on the "
            "quantized input too (`both`).",
            values=("none", "full", "both"),
        )
    )
    end_to_end: bool = field(
        default=False,
        metadata=_about(
            "end-to-end pass",
            "After the blocks, one pass in which all of them learn together, by KL of the next-token distributions.",
        ),
    )
    block_targets: bool = field(
        default=False,
        metadata=_about(
            "block targets in the pass",
            "The end-to-end pass also matches every block's output to full precision, by the log cosine.",
            cost=SwitchCost(output_seconds=5.0e-8),
        ),
    )
    hadamard: bool = field(
        default=False,
        metadata=_about(
            "Hadamard transform",
            "Weights, and at run time the quantized activations they multiply, go through a Hadamard transform.",
            cost=SwitchCost(weight_step_seconds=3.4e-9),
        ),
    )
    half_zero: bool = field(
        default=False,
        metadata=_about(
            "half-step zero points",
            "Zero points of weights without a star, below 8 bits, may lie halfway between two levels.",
        ),
    )
    rotation: bool = field(
        default=False,
        metadata=_about(
            "folded rotation",
            "Residual stream and attention values are rotated, and the rotation is folded into the weights: no "
            "transform at run time, but a tied table becomes two.",
            cost=SwitchCost(made_seconds=8.0e-9),
        ),
    )
    symmetric: bool = field(
        default=False,
        metadata=_about(
            "symmetric levels",
            "Weights without a star get levels around a fixed zero point, as some engines require.",
        ),
    )
    nested: bool = field(
        default=False,
        metadata=_about(
            "nested planes",
            "What is learned must also be good without the lowest bit planes: every other step reads weights of 3 to "
            "8 bits without a star at fewer planes, down to 2.",
            cost=SwitchCost(weight_step_seconds=6.6e-9),
        ),
    )

    def __post_init__(self) -> None:
        for name, info in SWITCHES.items():
            value = getattr(self, name)
            if type(value) is not type(info.values[0]) or value not in info.values:
                raise SpecError(f"{name} is {str(value)[:80]!r}: use {_alternatives(map(_as_text, info.values))}.")
        if self.learns and not (self.dlc or self.akl or self.mse != "none"):
            raise SpecError("Something is learned but no loss is on: switch on dlc, akl or mse.")
        if self.end_to_end and not self.learns:
            raise SpecError(
                "end_to_end continues the learning of the blocks, but they learn nothing: switch on rounding."
            )

    @property
    def learns(self) -> bool:
        """True if there is anything to optimize."""
        return self.balance == "learned" or self.clipping or self.compensation or self.rounding or self.act_clipping

    @property
    def cost(self) -> SwitchCost:
        """The summed cost of the switches that are on and have an effect."""
        return sum((SWITCHES[name].cost for name in SWITCHES if self._has_effect(name)), FREE)

    def changes_from(self, other: "Switches") -> dict[str, SwitchValue]:
        """The switches whose values differ from `other`, with their values here."""
        return {name: getattr(self, name) for name in SWITCHES if getattr(self, name) != getattr(other, name)}

    def _has_effect(self, name: str) -> bool:
        info = SWITCHES[name]
        return getattr(self, name) != info.values[0] and (info.part_of is None or self._has_effect(info.part_of))


def _info(one: Field[Any]) -> SwitchInfo:
    return SwitchInfo(one.name, **one.metadata)


SWITCHES: Mapping[str, SwitchInfo] = {one.name: _info(one) for one in fields(Switches)}


def read_switches(values: Mapping[str, object], base: Switches | None = None) -> Switches:
    """`base` with untyped values (JSON, YAML, form, command line) changed.

    Raises SpecError with the switch's name.
    base: None if `values` are complete, as those of a stored calibration are; switches that were added since are off.
    """
    if unknown := sorted(str(name) for name in values if name not in SWITCHES):
        raise SpecError(f"There is no switch '{unknown[0][:80]}': use {', '.join(SWITCHES)}.")
    read = {name: SWITCHES[name].read(value) for name, value in values.items()}
    known = {} if base is None else vars(base)
    optional = {one.name for one in fields(Switches) if one.default is False}
    if missing := [name for name in SWITCHES if name not in {*read, *known, *optional}]:
        raise SpecError(f"The switch '{missing[0]}' is missing: a complete list has {', '.join(SWITCHES)}.")
    return Switches(**cast(dict[str, Any], {**known, **read}))


@dataclass(frozen=True)
class Method:
    """One calibration method. epochs: used if something is learned and no number is given."""

    switches: Switches
    help: str
    epochs: int = 20


METHOD_TABLE: Mapping[str, Method] = {
    "rtn": Method(
        Switches("none", clipping=False, compensation=False, dlc=False, akl=False, mse="none"),
        "Rounds to the nearest level. Nothing is learned.",
    ),
    "smoothquant": Method(
        Switches("started", clipping=False, compensation=False, dlc=False, akl=False, mse="none"),
        "Balances activations against weights by their maxima. Nothing is learned.",
    ),
    "omniquant": Method(
        Switches("learned", clipping=True, compensation=False, dlc=False, akl=False, mse="full"),
        "Learns balance and clipping against the block's output.",
    ),
    "abq": Method(
        Switches("learned", clipping=True, compensation=True, dlc=True, akl=True, mse="both"),
        "The paper's method: learns balance, clipping and compensation with DLC and AKL.",
    ),
    "abq+": Method(
        Switches(
            "learned",
            clipping=True,
            compensation=False,
            dlc=True,
            akl=False,
            mse="both",
            rounding=True,
            end_to_end=True,
            clip_search=True,
            act_clipping=True,
            block_targets=True,
            hadamard=True,
            half_zero=True,
        ),
        "Beyond the paper: a Hadamard transform, learned rounding, and one pass in which all blocks learn together.",
        epochs=10,  # the end-to-end pass continues where they stop
    ),
}
METHODS: Mapping[str, Switches] = {name: method.switches for name, method in METHOD_TABLE.items()}


def default_switches(method: str) -> Switches:
    """The switches of a method. Raises SpecError for a method that does not exist."""
    if method not in METHODS:
        raise SpecError(f"'{method[:80]}' is not a method: use one of {', '.join(METHODS)}.")
    return METHODS[method]


def switch_table() -> str:
    """The Markdown table of all switches that docs/method.md contains."""
    rows = ["| switch | values | on in | what it does |", "|---|---|---|---|"]
    for name, info in SWITCHES.items():
        values = ", ".join(f"`{_as_text(value)}`" for value in info.values)
        methods = ", ".join(
            f"`{method}`" + ("" if len(info.values) == 2 else f" ({getattr(switches, name)})")
            for method, switches in METHODS.items()
            if getattr(switches, name) != info.values[0]
        )
        rows.append(f"| `{name}` | {values} | {methods or 'none'} | {info.help} |")
    return "\n".join(rows)


def _as_text(value: SwitchValue) -> str:
    return str(value).lower()


def _alternatives(texts: Any) -> str:
    *others, last = texts
    return f"{', '.join(others)} or {last}" if others else last
