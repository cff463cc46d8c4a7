"""A calibration as one frozen, validated, canonical value that determines its run."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from abq_core.methods import METHOD_TABLE, METHODS, SpecError, Switches, default_switches, read_switches
from abq_core.mix import MixError, ModelPrecision, PrecisionMix
from abq_core.precision import Precision

__all__ = ["METHODS", "CalibrationSpec", "SpecError", "Switches", "read_precision"]

DEFAULT_END_TO_END_SEGMENTS = 1024
EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN = 32, 512  # read when a calibration is done
_LIMITS = {
    "segments": (1, 4096),
    "seq_len": (8, 131072),
    "epochs": (0, 1000),
    "batch": (1, 4096),
    "end_to_end_segments": (1, 1_000_000),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class CalibrationSpec:
    """One calibration in canonical form.

    Two specs of the same method that calibrate the same way are equal.

    switches, epochs and end_to_end_segments are None for the default: the switches of the method, its epochs (20, for
    abq+ 10), 1,024 segments. An explicit value that equals the default, or that has no effect because nothing is
    learned or there is no end-to-end pass, becomes the default too. `active_switches`, `active_epochs` and
    `active_end_to_end_segments` are the values in force. data, segments and seed always count: every method reads text
    for its diagnostics and its evaluation.

    segments, end_to_end_segments: of `seq_len` tokens; the end-to-end pass reads each of its segments once.
    batch: segments per optimizer step of a block.
    Raises SpecError.
    """

    model: str
    precision: ModelPrecision
    method: str = "abq"
    switches: Switches | None = None
    data: str = "builtin"
    segments: int = 32
    seq_len: int = 256
    epochs: int | None = None
    batch: int = 1
    end_to_end_segments: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._check()
        if self.switches == METHODS[self.method]:
            object.__setattr__(self, "switches", None)
        if not self.active_switches.learns or self.epochs == METHOD_TABLE[self.method].epochs:
            object.__setattr__(self, "epochs", None)
        object.__setattr__(self, "batch", min(self.batch, self.segments) if self.active_epochs else 1)
        if not self.learns_end_to_end or self.end_to_end_segments == DEFAULT_END_TO_END_SEGMENTS:
            object.__setattr__(self, "end_to_end_segments", None)

    def _check(self) -> None:
        """Raise SpecError for the first field that cannot be used."""
        for name in ("model", "method", "data", "device"):
            if not isinstance(value := getattr(self, name), str):
                raise SpecError(f"{name} is {str(value)[:80]}: use text.")
        if not isinstance(self.switches, Switches | None):
            raise SpecError(f"switches is {str(self.switches)[:80]}: use the names of components, each with its value.")
        if not self.model.strip():
            raise SpecError("No model is given: use builtin, a folder with a model, or a hub id such as org/name.")
        default_switches(self.method)
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
        """The epochs in force; 0 if nothing is learned."""
        if not self.active_switches.learns:
            return 0
        return METHOD_TABLE[self.method].epochs if self.epochs is None else self.epochs

    @property
    def all_but_precision(self) -> tuple[object, ...]:
        """Everything that determines a block's tensors, except the precision.

        The name of the method is not included.
        """
        text = (self.data, self.segments, self.seq_len, self.seed)
        learning = (
            self.active_switches,
            self.active_epochs,
            self.batch,
            self.active_end_to_end_segments,
        )
        return (self.model, *text, *learning, self.device)

    @property
    def learns_end_to_end(self) -> bool:
        """True if the blocks learn together after each has learned alone."""
        return self.active_switches.end_to_end and self.active_epochs > 0

    @property
    def active_end_to_end_segments(self) -> int:
        """Segments that the end-to-end pass reads; 0 without a pass."""
        if not self.learns_end_to_end:
            return 0
        return DEFAULT_END_TO_END_SEGMENTS if self.end_to_end_segments is None else self.end_to_end_segments

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dictionary that `from_dict` reads back to an equal spec.

        "precision" holds the notation, or the name of a mix; the mix itself is then under "mix".
        """
        data = {**asdict(self), "precision": str(self.precision)}
        return data | {"mix": self.precision.to_dict()} if isinstance(self.precision, PrecisionMix) else data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "CalibrationSpec":
        """Read `to_dict`'s dictionary, also one that an earlier version stored.

        Raises SpecError or PrecisionError.
        """
        known = {field.name for field in fields(cls)}
        values = dict(data)
        values.pop("mix", None)  # part of the precision
        if unknown := sorted(values.keys() - known):
            raise SpecError(f"Unknown field '{unknown[0]}': a calibration has {', '.join(sorted(known))}.")
        try:
            values["precision"] = read_precision(data)
            switches = values.get("switches")
            if isinstance(switches, Mapping):
                values["switches"] = read_switches(switches)
            return cls(**values)  # type: ignore[arg-type]
        except (KeyError, TypeError) as error:
            raise SpecError(
                f"This calibration cannot be read ({error}): it needs at least model and precision."
            ) from error

    def command_line(self) -> str:
        """The `abq calibrate` command line for this calibration; defaults are left out."""
        words = ["abq", "calibrate", self.model, "--precision", str(self.precision), "--method", self.method]
        defaults = {field.name: field.default for field in fields(self)}
        for name in ("data", "segments", "seq_len", "epochs", "batch", "end_to_end_segments", "seed", "device"):
            value = getattr(self, name)
            if value != defaults[name]:
                words += [f"--{name.replace('_', '-')}", str(value)]
        for name, value in self.active_switches.changes_from(METHODS[self.method]).items():
            words += ["--switch", f"{name}={str(value).lower()}"]
        return shlex.join(words)


def read_precision(data: Mapping[str, object]) -> ModelPrecision:
    """Read the precision of a stored calibration, or of a file that `abq allocate` wrote.

    Raises PrecisionError, or KeyError if `data` has no precision.
    """
    text, mix = str(data["precision"]), data.get("mix")
    if mix is None:
        return Precision.parse(text)
    found = PrecisionMix.from_dict(mix)
    if str(found) != text:
        raise MixError(
            f"The precision is named {text[:40]!r}, but the mix stored with it is {found}: one of them was changed."
        )
    return found
