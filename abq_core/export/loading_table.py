"""Where a run loads: the facts of load_facts.json that fit it."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from abq_core.export.gguf.names import ARCHITECTURES
from abq_core.methods import Switches
from abq_core.mix import PrecisionMix
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec

_FILE = Path(__file__).parent / "load_facts.json"

FOLDER = "DIR"  # the target in the commands of the table
_KV_BITS = "KV bits"
_DIFFERENT = "different"  # activation bits of a mix


class LoadFact(NamedTuple):
    """What one runtime does with a run. loads: yes, no, or on which condition.  how: "run" or "read"."""

    runtime: str
    version: str
    format: str
    loads: str
    kernel: str
    drops: Sequence[str]
    serve: str
    how: str
    sources: Sequence[str]


def loading_table(spec: CalibrationSpec, family: str) -> list[LoadFact]:
    """One row per runtime. family: the model type of the run's model."""
    features = _features(spec, family)
    rows: dict[tuple[str, str], LoadFact] = {}
    for fact in _facts():
        key = fact["runtime"], fact["format"]
        if key not in rows and all(features[name] in allowed for name, allowed in fact["when"].items()):
            drops = [drop for drop in fact["drops"] if _applies(drop, spec)]
            values = {name: fact[name] for name in LoadFact._fields if name not in ("drops", "serve")}
            rows[key] = LoadFact(**values, drops=drops, serve=fact["serve"].replace("{path}", FOLDER))
    return list(rows.values())


@cache
def _facts() -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = json.loads(_FILE.read_text("utf-8"))["facts"]
    return facts


def _features(spec: CalibrationSpec, family: str) -> Mapping[str, object]:
    """What conditions of the facts can name."""
    precision, switches = spec.precision, spec.active_switches
    linears = [one.precision for one in precision.linears] if isinstance(precision, PrecisionMix) else [precision]
    act_bits = {one.act_bits for one in linears}
    return {
        "act_bits": act_bits.pop() if len(act_bits) == 1 else _DIFFERENT,
        "weight_bits": max(one.weight_bits for one in linears),
        "integer_bits": max(one.weight_bits + _more_bits(one, switches) for one in linears),
        "table_bits": max(precision.head_bits or 0, precision.embedding_bits or 0),
        "grouped": any(one.group_size is not None for one in linears),
        "symmetric": switches.symmetric,
        "hadamard": switches.hadamard and precision.quantizes_activations,  # otherwise there is nothing to transform
        "untied_gemma": switches.rotation and family == "gemma",
        "experts": family in ("mixtral", "qwen2_moe", "qwen3_moe"),
        "gguf_family": family in ARCHITECTURES,
    }


def _more_bits(precision: Precision, switches: Switches) -> int:
    """How many more bits the levels need as symmetric integers, `integers.symmetric`."""
    if precision.balanced:
        return 1
    return 0 if switches.symmetric else 2 if switches.half_zero else 1


def _applies(drop: str, spec: CalibrationSpec) -> bool:
    """Whether the run has what a runtime drops; facts name more than one run has."""
    if drop == _KV_BITS:
        return spec.precision.kv_bits is not None
    if drop == "learned activation clipping":
        return spec.active_switches.act_clipping
    if drop.startswith(("activation", "zero points of activations")):
        return spec.precision.quantizes_activations
    return True
