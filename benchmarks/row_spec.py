"""One row of a benchmark: model, precision, method and conditions, and the key of its results in the file."""

from dataclasses import MISSING, dataclass, fields
from typing import Any

from conditions import Conditions
from peer_weights import is_peer

from abq_core.models.reference import fingerprint
from abq_core.precision import Precision
from abq_core.spec import METHODS, CalibrationSpec, Switches

FULL_PRECISION = "full"


@dataclass(frozen=True)
class RowSpec:
    """One row: a method of METHODS, a peer (see `is_peer`), or FULL_PRECISION.

    switches: None for the method's defaults.  symmetric: whether a peer's weights are symmetric.
    """

    model: str
    precision: str
    method: str
    switches: Switches | None
    symmetric: bool
    conditions: Conditions

    @property
    def model_name(self) -> str:
        """The last part of a folder or hub id, so that a row does not depend on where the model is stored."""
        return self.model.rstrip("/").rpartition("/")[2]

    @property
    def label(self) -> str:
        """Model, precision and method, with the switches that differ from the method's defaults."""
        words = [self.model_name, self.precision, self.method]
        if self.switches is not None:
            defaults, ours = METHODS[self.method], self.switches
            names = [field.name for field in fields(Switches)]
            words += [f"{n}={getattr(ours, n)}" for n in names if getattr(ours, n) != getattr(defaults, n)]
        return " ".join(words)

    @property
    def calibration_spec(self) -> CalibrationSpec:
        """The calibration spec of one of our methods."""
        conditions = self.conditions
        return CalibrationSpec(
            self.model,
            Precision.parse(self.precision),
            self.method,
            self.switches,
            data=conditions.data,
            segments=conditions.segments,
            seq_len=conditions.seq_len,
            epochs=conditions.epochs,
            end_to_end_segments=conditions.end_to_end_segments,
            seed=conditions.seed,
        )

    def key(self) -> dict[str, Any]:
        """Everything that the results depend on, and nothing else: rows with equal keys are not measured twice.

        Switches at their default are omitted, so that adding a switch later does not invalidate old rows.
        """
        conditions = self.conditions
        key = {
            "model": self.model_name,
            "model_sha256": fingerprint(self.model)[:16],
            "precision": self.precision,
            "method": self.method,
            "data": conditions.data,
            "seed": conditions.seed,
            "evaluation": [conditions.eval_segments, conditions.eval_seq_len],
        }
        if self.method == FULL_PRECISION:
            return key
        key["calibration"] = [conditions.segments, conditions.seq_len]
        if is_peer(self.method):
            return key | {"steps": conditions.steps, "symmetric": self.symmetric}
        spec = self.calibration_spec
        if spec.learns_end_to_end:
            key["end_to_end_segments"] = spec.active_end_to_end_segments
        chosen = {f.name: getattr(spec.active_switches, f.name) for f in fields(Switches)}
        defaults = {f.name: f.default for f in fields(Switches) if f.default is not MISSING}
        key["switches"] = {name: value for name, value in chosen.items() if defaults.get(name) != value}
        return key | {"epochs": spec.active_epochs}
