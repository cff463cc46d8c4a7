"""Sources of exports: a tiny model, rounded with some switches."""

from dataclasses import replace

from tiny_runs import calibrated

from abq_core.export.source import ExportSource
from abq_core.methods import METHODS
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec

RECORD = {"method": "rtn", "precision": "tiny", "calibrated on": "4 segments", "run": "r-0123456789"}


def export_source(base: LoadedModel, text: str) -> ExportSource:
    """A rounded model. text: a precision, then switches to turn on, such as "W4A8+hadamard"."""
    notation, *names = text.split("+")
    switches = replace(METHODS["rtn"], **dict.fromkeys(names, True))
    store = calibrated(base, notation, switches=switches)
    spec = CalibrationSpec(base.ref, Precision.parse(notation), "rtn", switches)
    return ExportSource.of(base, spec, store, RECORD)
