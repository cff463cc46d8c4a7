"""Sweep files: all combinations of models, precisions, methods and seeds from YAML."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from abq_core.methods import SpecError, default_switches, read_switches
from abq_core.mix import MIX_SUFFIX
from abq_core.spec import CalibrationSpec
from abq_core.user_files import read_user_text, user_path

_AXES = {"models": "model", "precisions": "precision", "methods": "method", "seeds": "seed"}
_DEFAULT_METHODS = ["abq"]
_MAX_CALIBRATIONS = 10_000
_MAX_FILE_BYTES = 1 << 20


class SweepError(ValueError):
    """A sweep file that cannot be read."""


def read_sweep(path: Path) -> list[CalibrationSpec]:
    """Read the calibrations of a YAML file, without duplicates.

    The order is models, precisions, methods, seeds.

    `models` and `precisions` are required lists, `methods` (default: abq) and `seeds` optional ones. A precision is the
    notation, or the path of a mix relative to this file. The other settings hold for all calibrations: data, segments,
    seq_len, epochs, batch, end_to_end_segments, device, and `switches`, which change the defaults of each method.
    Raises SweepError, SpecError or PrecisionError.
    """
    content = _read(path)
    axes = {
        single: _values(path, content, name) for name, single in _AXES.items() if name in content or name != "seeds"
    }
    shared = {name: value for name, value in content.items() if name not in _AXES}
    known = {field.name for field in fields(CalibrationSpec)} - set(axes)
    if unknown := sorted(shared.keys() - known):
        raise SweepError(f"{path}: '{unknown[0]}' is unknown: use {', '.join([*_AXES, *sorted(known)])}.")
    count = math.prod(map(len, axes.values()))
    if count > _MAX_CALIBRATIONS:
        raise SweepError(f"{path} has {count:,} calibrations: {_MAX_CALIBRATIONS:,} is the maximum.")
    specs = []
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        cell |= _mix(path, str(cell["precision"])) | _switches(path, shared, str(cell["method"]))
        specs.append(CalibrationSpec.from_dict({**shared, **cell}))
    return list(dict.fromkeys(specs))


def _read(path: Path) -> dict[str, Any]:
    import yaml

    text = read_user_text(user_path(path, SweepError), _MAX_FILE_BYTES, SweepError)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise SweepError(f"{path} has an alias (*name), which can stand for very much: write the values out.")
        content = yaml.safe_load(text)
    except SweepError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number or date out of range
        raise SweepError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise SweepError(f"{path} has no settings: write lines such as `models: [builtin]`.")
    return {str(name): value for name, value in content.items()}


def _values(path: Path, content: Mapping[str, Any], name: str) -> list[Any]:
    values = content.get(name, _DEFAULT_METHODS if name == "methods" else None)
    if not isinstance(values, list) or not values:
        raise SweepError(f"{path}: {name} is {values!r}: give a list, such as {name}: [{_EXAMPLES[name]}].")
    return [value if name == "seeds" else str(value) for value in values]


def _mix(path: Path, precision: str) -> dict[str, Any]:
    """Precision and mix of a file that `abq allocate` wrote.

    Empty if `precision` is not the name of such a file.
    A relative path starts at the folder of the sweep file.
    """
    if not precision.endswith(MIX_SUFFIX):
        return {}
    file = path.parent / user_path(precision, SweepError)
    try:
        content = json.loads(read_user_text(file, _MAX_FILE_BYTES))
        return {"precision": content["precision"], "mix": content.get("mix")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SweepError(f"{path}: {precision} is not a file of `abq allocate --out` ({reason}).") from error


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
