"""Timings as a file: so that machines can be compared. What is read from a file is checked before it is kept."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.files import write_atomically
from app.services.errors import ServiceError
from kernels.dispatch import describe
from storage.measurements import ThroughputRecord

if TYPE_CHECKING:
    from app.services.explorer import Explorer

FORMAT = "abq-timings-1"
SHIPPED = Path(__file__).parents[1] / "shipped" / "timings"
_MOST_BYTES, _MOST_TIMINGS, _LONGEST_TEXT = 16 << 20, 10_000, 200


def this_device() -> str:
    """The name under which timings of this machine are kept."""
    return str(describe()["cpu"])


def export_timings(explorer: "Explorer", path: Path, device: str) -> int:
    """Write all timings of a device to a new file; how many. Raises ServiceError."""
    if path.exists():
        raise ServiceError(f"{path} is there already. Name another file, or remove it.")
    kept = [record for record in explorer.measurements.throughput(_MOST_TIMINGS) if record.device == device]
    if not kept:
        raise ServiceError(f"There is no timing of '{device}' yet: run abq bench kernels or abq bench decode.")
    rows = [
        {"created": record.created_at.isoformat(), "device": record.device, "values": record.values}
        for record in reversed(kept)
    ]
    try:
        content = json.dumps({"format": FORMAT, "timings": rows}, indent=1) + "\n"
        write_atomically(path, content.encode(), make_parents=False)
    except OSError as error:
        raise ServiceError(f"{path} cannot be written: {error}.") from error
    return len(rows)


def import_timings(explorer: "Explorer", path: Path) -> tuple[int, int]:
    """Keep the timings of a file that are not here yet: (new, known). All of them or none. Raises ServiceError."""
    found = read_timings(path)
    known = {_key(r.created_at, r.device, r.values) for r in explorer.measurements.throughput(_MOST_TIMINGS)}
    new = {key: timing for timing in found if (key := _key(*timing)) not in known}
    explorer.measurements.add_timings(new.values())
    return len(new), len(found) - len(new)


def read_timings(path: Path) -> list[tuple[datetime, str, dict[str, Any]]]:
    """When, on what device and the values of each timing in a file. Raises ServiceError."""
    return [_timing(path, number, row) for number, row in enumerate(_rows(path), start=1)]


@cache
def shipped_timings() -> tuple[ThroughputRecord, ...]:
    """Timings of other machines that come with the program (scripts/ship_timings.py); they are in no database."""
    found = [timing for path in sorted(SHIPPED.glob("*.json")) for timing in read_timings(path)]
    return tuple(ThroughputRecord(0, *timing) for timing in found if timing[1] != this_device())


def _rows(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ServiceError(f"{path} has {path.stat().st_size:,} bytes: timings have at most {_MOST_BYTES:,}.")
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ServiceError(f"{path} cannot be read: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise ServiceError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("timings"), list):
        raise ServiceError(f"{path} holds no timings: it must be a file that `abq bench export` wrote.")
    if len(content["timings"]) > _MOST_TIMINGS:
        raise ServiceError(f"{path} has {len(content['timings']):,} timings: {_MOST_TIMINGS:,} is the most.")
    return list(content["timings"])


def _timing(path: Path, number: int, row: Any) -> tuple[datetime, str, dict[str, Any]]:
    """One row of a file, with all that the page shows of it. Raises ServiceError."""
    try:
        values = row["values"]
        known = _FIELDS[values["kind"]]
        wrong = [name for name, fits in known.items() if not fits(values.get(name))]
        device, created = row["device"], datetime.fromisoformat(row["created"])
        if wrong:
            raise ValueError(f"{wrong[0]} is {str(values.get(wrong[0]))[:40]!r}")
        if not _is_text(device) or created.tzinfo is None:
            raise ValueError("it lacks a device or the time zone of its date")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServiceError(f"Timing {number} of {path} cannot be read: {error}. Nothing was imported.") from error
    return created, device, {"kind": values["kind"], **{name: values.get(name) for name in known}}


def _key(created: datetime, device: str, values: Mapping[str, Any]) -> str:
    known = {name: value for name, value in values.items() if value is not None}  # what an older version did not keep
    return json.dumps([created.timestamp(), device, known], sort_keys=True)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_speedup(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(name) and _is_amount(factor) for name, factor in value.items())


_FIELDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "kernel": {
        **dict.fromkeys(("precision", "engine", "path", "device"), _is_text),
        **dict.fromkeys(("n", "k", "m", "packed_bytes", "bytes_moved", "threads"), _is_count),
        **dict.fromkeys(("median_us", "iqr_us", "cold_us"), _is_amount),
        "exact": lambda value: isinstance(value, bool),
        "speedup": _is_speedup,
        # older timings have none of these, and those of a CPU not all
        **dict.fromkeys(
            ("read_gb_per_second", "cold_iqr_us", "operations", "ceiling_gop_per_second"),
            lambda value: value is None or _is_amount(value),
        ),
    },
    "decode": {
        **dict.fromkeys(("column", "path", "model"), _is_text),
        **dict.fromkeys(("tokens", "weight_bytes", "threads"), _is_count),
        **dict.fromkeys(("tokens_per_second", "first_token_seconds"), _is_amount),
    },
}
