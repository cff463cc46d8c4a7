"""The autotuning table: the fastest launch plan per shape, stored on disk per device."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernels.cuda.device_tensors import DeviceWeight, plane_columns
from kernels.cuda.plan import Plan, candidates, default_plan, fits_tokens
from kernels.cuda.tiles import LIBRARY, Instance, instances
from kernels.host.cache_files import cache_folder, write_atomically

_FORMAT = 1


class PlanTable:
    """Fastest plans of one device by shape. Shapes that it does not contain are timed once."""

    def __init__(self, device_name: str, arch: str, processors: int, folder: Path | None = None) -> None:
        self.processors = processors
        stem = re.sub(r"[^A-Za-z0-9]+", "-", device_name).strip("-").lower()
        self.path = (folder or cache_folder("cuda")) / f"plans-{stem}-sm{arch}-{processors}.json"
        self._plans: dict[str, dict[str, Any]] | None = None

    def best(
        self,
        weight: DeviceWeight,
        m: int,
        act_bits: int,
        allowed: tuple[str, ...],
        seconds: Callable[[Plan], float] | None,
    ) -> Plan:
        """The stored plan, or the fastest candidate, timed now and stored.

        allowed: families that may be used.  seconds: returns the time of one product by a plan; None if nothing can be
        timed (during graph capture): the plan expected to be fastest is then returned and not stored.
        """
        key = plan_key(weight, m, act_bits)
        known = _read_plan(weight, self._table().get(key))
        if known is not None and known.instance.family in allowed and fits_tokens(known, m):
            return known
        if seconds is None:
            return default_plan(weight, m, act_bits, allowed, self.processors)
        timed = [(seconds(plan), plan) for plan in candidates(weight, m, act_bits, allowed, self.processors)]
        taken, plan = min(timed, key=lambda pair: pair[0])
        self._table()[key] = {**_as_json(plan), "microseconds": round(taken * 1e6, 2)}
        write_atomically(self.path, json.dumps({"format": _FORMAT, "plans": self._table()}, indent=1).encode())
        return plan

    def _table(self) -> dict[str, dict[str, Any]]:
        if self._plans is None:
            self._plans = _read_table(self.path)
        return self._plans


def plan_key(weight: DeviceWeight, m: int, act_bits: int) -> str:
    """Key of a plan: planes, columns per token, group size, shape, m up to a power of two."""
    group = weight.segment if weight.grouped else 0
    token_class = 1 << (m - 1).bit_length()
    return f"p{weight.planes} q{plane_columns(act_bits)} g{group} {weight.n}x{weight.k} m{token_class}"


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    """The plans of a file; none if it is missing, broken or of another format."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    plans = stored.get("plans") if isinstance(stored, dict) and stored.get("format") == _FORMAT else None
    return plans if isinstance(plans, dict) else {}


def _as_json(plan: Plan) -> dict[str, Any]:
    return {"kernel": plan.instance.name, "warps": [plan.warps_n, plan.warps_m], "splits": plan.splits}


def _read_plan(weight: DeviceWeight, stored: dict[str, Any] | None) -> Plan | None:
    """Parse a stored plan; None if this version lacks its kernel."""
    if stored is None:
        return None
    known = (*instances(weight.planes, weight.grouped), Instance(LIBRARY, weight.planes, 0, 0, False))
    by_name = {instance.name: instance for instance in known}
    try:
        warps_n, warps_m = stored["warps"]
        return Plan(by_name[stored["kernel"]], int(warps_n), int(warps_m), int(stored["splits"]))
    except (KeyError, TypeError, ValueError):
        return None
