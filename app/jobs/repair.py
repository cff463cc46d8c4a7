"""Repair of a run: damaged files are made again from its spec, or the error says what is lost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from abq_core.imports.spec import ImportSpec
from abq_core.models.errors import ModelError
from abq_core.spec import CalibrationSpec
from abq_core.text.errors import DataError
from app.clock import now
from app.jobs.foreground import bring_to_end
from app.runs.provenance import import_provenance, provenance, same_calibration, what_changed
from app.runs.run_check import verify
from app.runs.run_folder import RunFolderError
from app.runs.specs import read_spec
from app.services import Services
from storage.runs import Run

Content = TypeVar("Content")


class RepairError(ValueError):
    """The run cannot be repaired; the message says what is lost."""


@dataclass(frozen=True)
class Repair:
    """The outcome of a repair.

    damaged: problems before.  remaining: problems after.  changed: blocks whose new file differs from the one that was
    recorded, as on another processor: later blocks were learned on slightly different inputs.  lost: what could not be
    made again.
    """

    run: str
    damaged: list[str]
    remaining: list[str]
    changed: list[int]
    lost: list[str]


def repair(services: Services, run_id: str) -> Repair:
    """Make the damaged files of a run again, in this process. Intact blocks are kept. Raises RepairError."""
    run = services.runs.get(run_id)
    if run.state in ("queued", "running"):
        raise RepairError(f"Run {run.id} is {run.state}. Wait for its job, or cancel it first.")
    damaged = verify(services.storage.runs, services.settings.runs_dir, run)
    if not damaged and run.state != "succeeded":
        raise RepairError(f"The files of run {run.id} are intact. Continue its job with: abq jobs resume {run.id}")
    if not damaged:
        return Repair(run.id, [], [], [], [])
    lost = _restore_spec(services, run, damaged)
    if not verify(services.storage.runs, services.settings.runs_dir, run):
        return Repair(run.id, damaged, [], [], lost)
    _prepare(services, run, damaged)
    before = {record.block: record.sha256 for record in services.storage.runs.blocks(run.id)}
    job = bring_to_end(
        services, services.storage.jobs.repair(run.job_id, now()), f"repair {run.precision} {run.method}"
    )
    if job.state != "succeeded":
        raise RepairError(f"Run {run.id} was not repaired: its job {job.state}. {job.error or ''}".strip())
    services.registry.forget(run.id)
    after = {record.block: record.sha256 for record in services.storage.runs.blocks(run.id)}
    remaining = verify(services.storage.runs, services.settings.runs_dir, services.runs.get(run.id))
    changed = [block for block, sha in before.items() if after.get(block) != sha]
    return Repair(run.id, damaged, remaining, changed, lost)


def _restore_spec(services: Services, run: Run, damaged: list[str]) -> list[str]:
    """Write spec.json again if it is damaged. Returns what of it is lost.

    It recorded the versions and the model's fingerprint. If today's are the recorded ones, as its hash shows, nothing
    is lost. Otherwise intact blocks stay usable, but blocks made now could differ from them in ways that are unknown.
    Raises RepairError if other files are damaged then.
    """
    folder, spec = services.runs.folder(run.id), read_spec(run.spec)
    stored = _readable(folder.read_spec)
    if stored is not None and same_calibration(stored.get("spec"), run.spec):
        return []
    current = _readable(lambda: _provenance(spec))
    if current is not None and _readable(lambda: folder.is_recorded_spec(current)):
        folder.write_spec(current)
        return []
    reason = "only its spec.json recorded the model files and the versions that made its blocks"
    if len(damaged) > 1:
        raise RepairError(_lost(run, spec, damaged, reason))
    folder.write_spec({"spec": run.spec})
    return [f"{reason[0].upper()}{reason[1:]}. The new one holds the calibration, from the database."]


def _prepare(services: Services, run: Run, damaged: list[str]) -> None:
    """Check that parts made now fit the others, and remove what cannot be read. Raises RepairError."""
    folder, spec = services.runs.folder(run.id), read_spec(run.spec)
    if changed := what_changed(folder.read_spec() or {}, _provenance(spec)):
        raise RepairError(_lost(run, spec, damaged, f"since the run began, {changed}"))
    if isinstance(spec, CalibrationSpec):
        _check_texts(services, run, spec, damaged)
    folder.discard_unreadable()


def _check_texts(services: Services, run: Run, spec: CalibrationSpec, damaged: list[str]) -> None:
    from abq_core.text.segments import segments_from_record

    tokenizer = services.registry.full(spec.model).tokenizer
    for record in (_readable(services.runs.folder(run.id).read_texts) or {}).values():
        try:
            segments_from_record(record, tokenizer)
        except DataError as error:
            raise RepairError(_lost(run, spec, damaged, str(error).rstrip("."))) from error


def _readable(read: Callable[[], Content | None]) -> Content | None:
    try:
        return read()
    except (RunFolderError, DataError, ModelError):
        return None


def _provenance(spec: CalibrationSpec | ImportSpec) -> dict[str, object]:
    """What determines the blocks of the run today. Raises ModelError."""
    if isinstance(spec, CalibrationSpec):
        return provenance(spec)
    from abq_core.imports.opening import open_import

    return import_provenance(spec, open_import(spec.source, spec.model))


def _lost(run: Run, spec: CalibrationSpec | ImportSpec, damaged: list[str], reason: str) -> str:
    again = "Calibrate" if isinstance(spec, CalibrationSpec) else "Import"
    return (
        f"Run {run.id} cannot be repaired: {reason}, so parts made now would not fit the rest. Lost: "
        f"{' '.join(damaged)} {again} it again with: {spec.command_line()}"
    )
