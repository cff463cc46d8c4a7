"""Short calibrations of a tiny model, for tests of a single switch."""

import dataclasses

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec


def calibrated(base: LoadedModel, precision: str, **changes: object) -> MemoryStore:
    """The blocks of a short `rtn` calibration, with the given fields of its spec changed."""
    store = MemoryStore()
    spec = CalibrationSpec(base.ref, Precision.parse(precision), "rtn", segments=4, seq_len=32, epochs=2)
    calibrate(base, dataclasses.replace(spec, **changes), store)  # type: ignore[arg-type]
    return store
