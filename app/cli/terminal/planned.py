"""What calibrations would cost, as `--dry-run` shows it."""

from typing import TYPE_CHECKING, Any

from app import formatting
from app.cli.terminal.answers import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abq_core.planning.estimate import Estimate
    from app.services.sweeps import PlannedCalibration


def planned_row(one: "PlannedCalibration") -> dict[str, Any]:
    """One calibration for --json."""
    spec, estimate = one.spec, one.estimate
    return {
        "model": spec.model,
        "precision": str(spec.precision),
        "method": spec.method,
        "seed": spec.seed,
        "state": one.state,
        "run": None if one.run is None else one.run.id,
        "peak_memory_bytes": estimate.peak_memory_bytes,
        "device_memory_bytes": estimate.device_memory_bytes,
        "run_bytes": estimate.run_bytes,
        "quantized_bytes": estimate.quantized_bytes,
        "bits_per_parameter": estimate.bits_per_parameter,
        "seconds": estimate.expected_seconds,
    }


def planned_table(planned: "Sequence[PlannedCalibration]") -> Table:
    """One line per calibration."""
    header = [
        "Model", "Precision", "Method", "Seed", "State", "Run", "Memory", "GPU memory", "Time", "Size",
        "Bits/parameter",
    ]  # fmt: skip
    cells = [
        [
            one.spec.model,
            str(one.spec.precision),
            one.spec.method,
            str(one.spec.seed),
            one.state,
            "-" if one.run is None else one.run.id,
            formatting.size(one.estimate.peak_memory_bytes),
            formatting.size(one.estimate.device_memory_bytes) if one.estimate.device_memory_bytes else "-",
            formatting.seconds(one.estimate.expected_seconds),
            formatting.size(one.estimate.quantized_bytes),
            formatting.bits(one.estimate.bits_per_parameter),
        ]
        for one in planned
    ]
    return Table(header, cells)


def planned_totals(planned: "Sequence[PlannedCalibration]") -> str:
    """How many of a sweep's calibrations would be queued, and what they cost together."""
    left = [one.estimate for one in planned if one.is_pending]
    if not left:
        return f"All {len(planned)} calibrations have a run. Nothing would be queued.\n"
    return f"{len(left)} of {len(planned)} calibrations would be queued: {needs(left)}.\n"


def needs(estimates: "Sequence[Estimate]") -> str:
    """Time, memory and disk of calibrations that run one after the other."""
    parts = [formatting.size(max(e.peak_memory_bytes for e in estimates)) + " of memory"]
    if device_memory := max(e.device_memory_bytes for e in estimates):
        parts.append(formatting.size(device_memory) + " of GPU memory")
    parts.append(formatting.size(sum(e.run_bytes for e in estimates)) + " on disk")
    times = [e.expected_seconds for e in estimates]
    if None not in times:
        where = ", one after the other" if len(times) > 1 else ""
        where = where if all(e.pace for e in estimates) else " on one core"
        parts.insert(0, f"about {formatting.seconds(sum(filter(None, times)))}{where}")
    return ", ".join(parts)
