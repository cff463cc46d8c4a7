"""A sweep: many calibrations from one file, every model at every precision with every method."""

import json
from collections.abc import Mapping
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from abq_core.methods import SpecError, default_switches, read_switches
from abq_core.mix import MIX_SUFFIX
from abq_core.spec import CalibrationSpec

_AXES = {"models": "model", "precisions": "precision", "methods": "method", "seeds": "seed"}
_DEFAULT_METHODS = ["abq"]
_MOST = 10_000
_FILE_BYTES = 1 << 20


class SweepError(ValueError):
    """A sweep's file that cannot be read."""


def read_sweep(path: Path) -> list[CalibrationSpec]:
    """The calibrations that a YAML file asks for, in the order models, precisions, methods, seeds, none twice.

    `models` and `precisions` are lists; `methods` (else abq) and `seeds` may be. A precision is the notation, or the
    file of a mix beside this one. Everything else is a setting of a calibration and the same for all: data, segments,
    seq_len, epochs, end_to_end_segments, device, and `switches`, which change the method's own. Raises SweepError,
    SpecError, PrecisionError.
    """
    asked = _read(path)
    axes = {single: _values(path, asked, name) for name, single in _AXES.items() if name in asked or name != "seeds"}
    shared = {name: value for name, value in asked.items() if name not in _AXES}
    known = {field.name for field in fields(CalibrationSpec)} - set(axes)
    if unknown := sorted(shared.keys() - known):
        raise SweepError(f"{path}: '{unknown[0]}' is unknown: use {', '.join([*_AXES, *sorted(known)])}.")
    count = len(list(product(*axes.values())))
    if count > _MOST:
        raise SweepError(f"{path} asks for {count:,} calibrations: {_MOST:,} is the most.")
    specs = []
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        cell |= _mix(path, str(cell["precision"])) | _switches(path, shared, str(cell["method"]))
        specs.append(CalibrationSpec.from_dict({**shared, **cell}))
    return list(dict.fromkeys(specs))


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if path.stat().st_size > _FILE_BYTES:
            raise SweepError(f"{path} has {path.stat().st_size:,} bytes: a sweep has at most {_FILE_BYTES:,}.")
        asked = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} cannot be read: {error}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SweepError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(asked, dict):
        raise SweepError(f"{path} holds no settings: write lines such as `models: [builtin]`.")
    return {str(name): value for name, value in asked.items()}


def _values(path: Path, asked: Mapping[str, Any], name: str) -> list[Any]:
    values = asked.get(name, _DEFAULT_METHODS if name == "methods" else None)
    if not isinstance(values, list) or not values:
        raise SweepError(f"{path}: {name} is {values!r}: give a list, such as {name}: [{_EXAMPLES[name]}].")
    return [value if name == "seeds" else str(value) for value in values]


def _mix(path: Path, precision: str) -> dict[str, Any]:
    """What `abq allocate` wrote to the file that stands for a precision, sought beside the sweep's; else nothing."""
    if not precision.endswith(MIX_SUFFIX):
        return {}
    file = path.parent / Path(precision).expanduser()
    try:
        content = json.loads(file.read_text("utf-8"))
        return {"precision": content["precision"], "mix": content.get("mix")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SweepError(f"{path}: {precision} is no file that `abq allocate --out` wrote ({reason}).") from error


def _switches(path: Path, shared: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The switches of the method with the file's changes; empty if the file changes none."""
    changes = shared.get("switches")
    if changes is None:
        return {}
    if not isinstance(changes, Mapping):
        raise SweepError(f"{path}: switches is {changes!r}: write lines such as `akl: false` of a method.")
    base = default_switches(method)
    try:
        return {"switches": read_switches(changes, base)}
    except SpecError as error:
        raise SweepError(f"{path}: {error}") from error


_EXAMPLES = {"models": "builtin", "precisions": "W4A4, W2*A8", "methods": "rtn, abq", "seeds": "0, 1"}
