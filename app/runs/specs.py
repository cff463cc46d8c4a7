"""The stored spec of a run: a calibration or an import."""

from collections.abc import Mapping
from typing import Any

from abq_core.imports.spec import ImportSpec, is_import
from abq_core.spec import CalibrationSpec


def read_spec(data: Mapping[str, Any]) -> CalibrationSpec | ImportSpec:
    """Read the spec of a run. Raises SpecError, PrecisionError, ImportSpecError."""
    return ImportSpec.from_dict(data) if is_import(data) else CalibrationSpec.from_dict(data)
