"""Timings of kernels and decoding: stored ones, and files that carry them between machines."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas

from abq_core.user_files import read_user_text, user_path
from app.files import output_path, write_output
from app.services import dataframes
from app.services.errors import ServiceError
from storage.measurements import Measurements, ThroughputRecord

FORMAT = "abq-timings-1"
SHIPPED = Path(__file__).parents[2] / "shipped" / "timings"
_MAX_BYTES, _MAX_TIMINGS, _MAX_CHARACTERS = 16 << 20, 10_000, 200
_MAX_SHOWN, _MAX_PARTS = 1000, 20


def this_device() -> str:
    """The name of this machine's CPU, under which its timings are stored."""
    from kernels.dispatch import describe  # numba takes a second to import

    return str(describe()["cpu"])


class TimingService:
    """Timings of this machine, and of other machines imported from files.

    Timings in a file are validated before any is stored.
    """

    def __init__(self, measurements: Measurements) -> None:
        self._measurements = measurements

    def frame(self, shipped: bool = False) -> pandas.DataFrame:
        """Stored timings, newest first; `kind` is "kernel", "decode" or "profile".

        shipped: append the timings of other machines that come with the program.
        """
        stored = self._measurements.throughput(_MAX_SHOWN)
        return dataframes.throughput_frame([*stored, *shipped_timings()] if shipped else stored)

    def export(self, path: Path, device: str, force: bool = False) -> int:
        """Write all timings of a device to a new file, or with `force` replace one. Returns their number.

        Raises ServiceError, and what `output_path` raises.
        """
        path = output_path(path, force)
        found = [record for record in self._measurements.throughput(_MAX_TIMINGS) if record.device == device]
        if not found:
            raise ServiceError(f"There is no timing of '{device}' yet: run abq bench kernels or abq bench decode.")
        rows = [
            {"created": record.created_at.isoformat(), "device": record.device, "values": record.values}
            for record in reversed(found)
        ]
        try:
            content = json.dumps({"format": FORMAT, "timings": rows}, indent=1) + "\n"
            write_output(path, content.encode(), force)
        except OSError as error:
            raise ServiceError(f"{path} cannot be written: {error}.") from error
        return len(rows)

    def import_from(self, path: Path) -> tuple[int, int]:
        """Store the new timings of a file, all or none. Returns (new, already stored).

        Raises ServiceError.
        """
        found = read_timings(path)
        stored = {_key(r.created_at, r.device, r.values) for r in self._measurements.throughput(_MAX_TIMINGS)}
        new = {key: timing for timing in found if (key := _key(*timing)) not in stored}
        self._measurements.add_timings(new.values())
        return len(new), len(found) - len(new)


def read_timings(path: Path) -> list[tuple[datetime, str, dict[str, Any]]]:
    """Time, device and values of each timing in a file, validated. Raises ServiceError."""
    return [_timing(path, number, row) for number, row in enumerate(_rows(path), start=1)]


@cache
def shipped_timings() -> tuple[ThroughputRecord, ...]:
    """Timings of other machines that come with the program, outside the database.

    scripts/ship_timings.py writes them. A machine with this machine's processor is named apart.
    """
    found = [timing for path in sorted(SHIPPED.glob("*.json")) for timing in read_timings(path)]
    names = {device: f"another {device}" if device == this_device() else device for _, device, _ in found}
    return tuple(ThroughputRecord(0, created, names[device], values) for created, device, values in found)


def _rows(path: Path) -> list[Any]:
    text = read_user_text(user_path(path, ServiceError), _MAX_BYTES, ServiceError)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServiceError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("timings"), list):
        raise ServiceError(f"{path} has no timings: use a file that `abq bench export` wrote.")
    if len(content["timings"]) > _MAX_TIMINGS:
        raise ServiceError(f"{path} has {len(content['timings']):,} timings: at most {_MAX_TIMINGS:,} are read.")
    return list(content["timings"])


def _timing(path: Path, number: int, row: Any) -> tuple[datetime, str, dict[str, Any]]:
    """One row of a file, with every field that the page shows. Raises ServiceError."""
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
    known = {name: value for name, value in values.items() if value is not None}  # older versions stored fewer fields
    return json.dumps([created.timestamp(), device, known], sort_keys=True)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_CHARACTERS


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53


def _is_amount(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and 0 <= value < 2**64
    return isinstance(value, float) and math.isfinite(value) and value >= 0


def _is_speedup(value: object) -> bool:
    return isinstance(value, dict) and all(_is_name(name) and _is_amount(factor) for name, factor in value.items())


def _is_name(value: object) -> bool:
    """A label of a peer; the storage reserves keys that begin with $."""
    return _is_text(value) and not str(value).startswith("$")


def _is_parts(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _MAX_PARTS and all(map(_is_part, value))


def _is_part(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"kind", "seconds", "nbytes"}:
        return False
    return _is_text(value["kind"]) and _is_amount(value["seconds"]) and _is_amount(value["nbytes"])


_FIELDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "kernel": {
        **dict.fromkeys(("precision", "engine", "path", "device"), _is_text),
        **dict.fromkeys(("n", "k", "m", "packed_bytes", "bytes_moved", "threads"), _is_count),
        **dict.fromkeys(("median_us", "iqr_us", "cold_us"), _is_amount),
        "exact": lambda value: isinstance(value, bool),
        "speedup": _is_speedup,
        # absent in older timings, and partly in those of a CPU
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
    "profile": {
        **dict.fromkeys(("column", "path", "model"), _is_text),
        **dict.fromkeys(("positions", "threads"), _is_count),
        **dict.fromkeys(("seconds", "read_gb_per_second"), lambda value: _is_amount(value) and value != 0),
        "parts": _is_parts,
    },
}
