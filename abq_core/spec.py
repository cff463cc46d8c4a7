"""A calibration as one frozen, validated value: everything that a run does is a function of it."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal

from abq_core.mix import MixError, ModelPrecision, PrecisionMix
from abq_core.precision import Precision

Balance = Literal["none", "started", "learned"]
MseTerm = Literal["none", "full", "both"]


class SpecError(ValueError):
    """A calibration that cannot be run as asked."""


@dataclass(frozen=True)
class Switches:
    """The components of a method, each of which can be taken away.

    balance: balance vectors not used, started as SmoothQuant does, or learned.  clipping: learnable weight clipping.
    compensation: rank-1 term on the down projection of the first and last blocks.  dlc, akl: the losses of the
    paper's section Distribution Correction.  akl_per_head: AKL on every head's map instead of the
    mean over heads.  mse: squared error against the full-precision block on full-precision input, or also on the
    quantized input.  rounding: a learned offset per weight that decides between its two neighbouring levels.
    end_to_end: after the blocks, one pass in which all of them learn together, by KL of the next-token distributions.
    block_targets: in that pass every block's output is held to full precision's, too, by the log cosine.
    clip_search: clipping starts where rounding has the least squared error, not at almost none; it stays there where
    `clipping` is not learned.
    act_clipping: a learned factor for each linear on the range of every token that enters it.
    symmetric: levels around a fixed zero point for weights without a star, as some engines need.
    hadamard: a Hadamard transform of weights and, at run time too, of the quantized activations that meet them.
    half_zero: zero points of weights without a star, below 8 bits, may lie halfway between two levels.
    """

    balance: Balance
    clipping: bool
    compensation: bool
    dlc: bool
    akl: bool
    mse: MseTerm
    akl_per_head: bool = False
    rounding: bool = False
    end_to_end: bool = False
    clip_search: bool = False
    act_clipping: bool = False
    symmetric: bool = False
    block_targets: bool = False
    hadamard: bool = False
    half_zero: bool = False

    def __post_init__(self) -> None:
        if self.balance not in ("none", "started", "learned"):
            raise SpecError(f"balance '{self.balance}' is unknown: use none, started or learned.")
        if self.mse not in ("none", "full", "both"):
            raise SpecError(f"mse '{self.mse}' is unknown: use none, full or both.")
        if self.learns and not (self.dlc or self.akl or self.mse != "none"):
            raise SpecError("Something is to be learned but no loss is on: switch on dlc, akl or mse.")

        if self.end_to_end and not self.learns:
            raise SpecError("end_to_end goes on learning what blocks learned, and nothing is: switch on rounding.")

    @property
    def learns(self) -> bool:
        """True where there is anything to optimise."""
        return self.balance == "learned" or self.clipping or self.compensation or self.rounding or self.act_clipping


METHODS: Mapping[str, Switches] = {
    "rtn": Switches("none", clipping=False, compensation=False, dlc=False, akl=False, mse="none"),
    "smoothquant": Switches("started", clipping=False, compensation=False, dlc=False, akl=False, mse="none"),
    "omniquant": Switches("learned", clipping=True, compensation=False, dlc=False, akl=False, mse="full"),
    "abq": Switches("learned", clipping=True, compensation=True, dlc=True, akl=True, mse="both"),
    "abq+": Switches(
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
}
DEFAULT_EPOCHS = 20
_OWN_EPOCHS = {"abq+": 10}  # the end-to-end pass goes on where they stop
DEFAULT_END_TO_END_SEGMENTS = 1024


def own_epochs(method: str) -> int:
    """The epochs of a method that learns, where none are given."""
    return _OWN_EPOCHS.get(method, DEFAULT_EPOCHS)


_LIMITS = {
    "segments": (1, 4096),
    "seq_len": (8, 131072),
    "epochs": (0, 1000),
    "end_to_end_segments": (1, 1_000_000),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class CalibrationSpec:
    """One calibration. `switches` and `epochs` None: the method's own (20 epochs where it learns, 10 of abq+).

    end_to_end_segments: of `seq_len` tokens, for the end-to-end pass, which reads each once; None for 1,024.
    """

    model: str
    precision: ModelPrecision
    method: str = "abq"
    switches: Switches | None = None
    data: str = "builtin"
    segments: int = 32
    seq_len: int = 256
    epochs: int | None = None
    end_to_end_segments: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("model", "method", "data", "device"):
            if not isinstance(value := getattr(self, name), str):
                raise SpecError(f"{name} is {str(value)[:80]}: use text.")
        if not isinstance(self.switches, Switches | None):
            raise SpecError(f"switches is {str(self.switches)[:80]}: use the names of components, each with its value.")
        if not self.model.strip():
            raise SpecError("No model is given: use builtin, a folder with a model, or a hub id such as org/name.")
        if self.method not in METHODS:
            raise SpecError(f"'{self.method}' is not a method: use one of {', '.join(METHODS)}.")
        if not self.data.strip():
            raise SpecError("No data is given: use builtin, wikitext2, c4, pile, or a .txt or .jsonl file.")
        if self.precision.is_full:
            raise SpecError(
                f"{self.precision} quantizes nothing, so there is nothing to calibrate. Choose W2*A8 or W4A4."
            )
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            may_be_none = name in ("epochs", "end_to_end_segments")
            if not (value is None and may_be_none) and not (isinstance(value, int) and low <= value <= high):
                raise SpecError(f"{name} is {str(value)[:80]}: use a whole number from {low} to {high}.")

    @property
    def active_switches(self) -> Switches:
        """The switches in force."""
        return self.switches if self.switches is not None else METHODS[self.method]

    @property
    def active_epochs(self) -> int:
        """The epochs in force: 0 where nothing is learned."""
        if not self.active_switches.learns:
            return 0
        return own_epochs(self.method) if self.epochs is None else self.epochs

    @property
    def learns_end_to_end(self) -> bool:
        """True where the blocks learn together after each has learned alone."""
        return self.active_switches.end_to_end and self.active_epochs > 0

    @property
    def active_end_to_end_segments(self) -> int:
        """Segments that the end-to-end pass reads, where there is one."""
        return DEFAULT_END_TO_END_SEGMENTS if self.end_to_end_segments is None else self.end_to_end_segments

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dictionary; `from_dict` reads it back to an equal spec. A mix is under "mix", its name under
        "precision".
        """
        data = {**asdict(self), "precision": str(self.precision)}
        return data | {"mix": self.precision.to_dict()} if isinstance(self.precision, PrecisionMix) else data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "CalibrationSpec":
        """Read `to_dict`'s dictionary. Raises SpecError or PrecisionError."""
        known = {field.name for field in fields(cls)}
        values = dict(data)
        values.pop("mix", None)  # read with the precision that it is
        if unknown := sorted(values.keys() - known):
            raise SpecError(f"Unknown field '{unknown[0]}': a calibration has {', '.join(sorted(known))}.")
        try:
            values["precision"] = read_precision(data)
            switches = values.get("switches")
            if isinstance(switches, Mapping):
                values["switches"] = Switches(**switches)
            return cls(**values)  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise SpecError(
                f"This calibration cannot be read ({error}): it needs at least model and precision."
            ) from error

    def command_line(self) -> str:
        """The `abq calibrate` line that does the same."""
        words = ["abq", "calibrate", self.model, "--precision", str(self.precision), "--method", self.method]
        defaults = {field.name: field.default for field in fields(self)}
        for name in ("data", "segments", "seq_len", "epochs", "end_to_end_segments", "seed", "device"):
            value = getattr(self, name)
            if value != defaults[name]:
                words += [f"--{name.replace('_', '-')}", str(value)]
        own = METHODS[self.method]
        for field in fields(Switches):
            value = getattr(self.active_switches, field.name)
            if value != getattr(own, field.name):
                words += ["--switch", f"{field.name}={str(value).lower()}"]
        return shlex.join(words)


def read_precision(data: Mapping[str, object]) -> ModelPrecision:
    """The precision among the fields of a stored calibration or of a file that `abq allocate` wrote.

    Raises PrecisionError, KeyError where there is none.
    """
    text, mix = str(data["precision"]), data.get("mix")
    if mix is None:
        return Precision.parse(text)
    found = PrecisionMix.from_dict(mix)
    if str(found) != text:
        raise MixError(f"The name says {text[:40]!r} and the mix under it is {found}: one of them was changed.")
    return found
