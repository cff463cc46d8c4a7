"""Provenance of the blocks of a run: calibration, model files, versions.

All blocks of a run have the same provenance.
"""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from abq_core.imports.spec import ImportSpec, is_import
from abq_core.models.reference import files_sha256, fingerprint, stored_weights
from abq_core.precision import PrecisionError
from abq_core.spec import CalibrationSpec, SpecError

if TYPE_CHECKING:
    from abq_core.imports.source import ImportSource

_PACKAGES = ("abq-explorer", "torch", "transformers", "numpy")


def provenance(spec: CalibrationSpec) -> dict[str, object]:
    """The calibration, the sha256 over the model's files, and the versions of this process.

    For a GGUF file also how it stores the weights, which are the full precision of the run.
    """
    stored = stored_weights(spec.model)
    return {
        "spec": spec.to_dict(),
        "fingerprint": fingerprint(spec.model),
        "versions": versions(),
        **({} if stored is None else {"weights": asdict(stored)}),
    }


def import_provenance(spec: ImportSpec, source: "ImportSource") -> dict[str, object]:
    """The import, the sha256 over the files of its base model and over its own, and the versions of this process."""
    return {
        "spec": spec.to_dict(),
        "fingerprint": fingerprint(spec.model),
        "source": files_sha256(source.files),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of every package that a block's arithmetic or text depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def same_inputs(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether two runs have the same model files and versions. Their calibrations may differ."""
    return all(one.get(name) == other.get(name) for name in ("fingerprint", "versions"))


def what_changed(before: Mapping[str, object], after: Mapping[str, object]) -> str | None:
    """The reason why blocks made under `before` do not fit `after`, as a clause.

    None if they fit.
    """
    if before.get("fingerprint") != after["fingerprint"]:
        return "the files of its model changed"
    if before.get("source") != after.get("source"):
        return "the imported files changed"
    if not same_calibration(before.get("spec"), after["spec"]):
        return "its calibration is not the one in its spec.json"
    old, new = before.get("versions"), after["versions"]
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or old == new:
        return None if old == new else "its spec.json has no versions"
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} was {old.get(name, 'missing')} and is {new.get(name, 'missing')}" for name in changed)


def same_calibration(one: object, other: object) -> bool:
    """Whether two stored calibrations or imports are equal.

    Fields that a stored calibration lacks have their default values.
    """
    if isinstance(one, Mapping) and is_import(one):
        return one == other
    try:
        return (
            isinstance(one, Mapping)
            and isinstance(other, Mapping)
            and CalibrationSpec.from_dict(one) == CalibrationSpec.from_dict(other)
        )
    except (SpecError, PrecisionError):
        return False
