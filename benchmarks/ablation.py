"""Ablation: the effect of each switch of a method, one at a time.

Writes docs/ablation.md and ablation-plus.md.
    python benchmarks/ablation.py --methods abq --markdown docs/ablation.md
    python benchmarks/ablation.py --methods abq+ --markdown docs/ablation-plus.md

The changes are derived from the fields of `Switches`. Rows are written to the JSON file as they finish, so that an
interrupted run can be resumed. `quality.py` uses the same file, so that neither script repeats rows of the other.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

from conditions import Conditions, add_options
from measure_missing import measure_missing
from pages.ablation_page import Key, page
from row_file import RowFile
from row_spec import FULL_PRECISION, RowSpec

from abq_core.precision import FULL, Precision
from abq_core.spec import METHODS, SpecError, Switches

ROOT = Path(__file__).parent.parent
PRECISIONS = ("W4A4", "W2A8", "W2*A8")
LEARNED_METHODS = [name for name, switches in METHODS.items() if switches.dlc]  # the paper's and its extensions


def changes(switches: Switches, precision: Precision) -> dict[str, Switches]:
    """Variants of the switches with one field changed, keyed by the change, such as `clipping=false`.

    A field takes each of its other values. Changes that have no effect at this precision or with these switches are
    omitted, as are combinations that `Switches` rejects.
    """
    hints, found = get_type_hints(Switches), {}
    for field in fields(Switches):
        own = getattr(switches, field.name)
        idle = {
            "akl_per_head": not switches.akl,
            "symmetric": precision.balanced,
            "block_targets": not switches.end_to_end,
        }.get(field.name, False)
        for value in () if idle else get_args(hints[field.name]) or (True, False):
            try:
                changed = replace(switches, **{field.name: value})
            except SpecError:
                continue
            if value != own and changed.learns:
                found[f"{field.name}={str(value).lower()}"] = changed
    return found


def row_specs(
    model: str, precisions: Sequence[Precision], methods: Sequence[str], names: Sequence[str], conditions: Conditions
) -> dict[Key, RowSpec]:
    """Rows by (method, precision, change).

    Change "" is the unchanged method, method "" is full precision.
    names: the switches to change.
    """
    rows = {("", str(FULL), ""): RowSpec(model, str(FULL), FULL_PRECISION, None, False, conditions)}
    for method in methods:
        for precision in precisions:
            variants = {"": METHODS[method], **changes(METHODS[method], precision)}
            for change, switches in variants.items():
                if change and change.partition("=")[0] not in names:
                    continue
                key = (method, str(precision), change)
                rows[key] = RowSpec(model, str(precision), method, switches, switches.symmetric, conditions)
    return rows


def main() -> None:
    """Parse the command line, measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="builtin, a folder or a hub id; repeatable")
    parser.add_argument("--methods", nargs="+", choices=LEARNED_METHODS, default=LEARNED_METHODS)
    parser.add_argument("--precisions", nargs="+", type=Precision.parse, default=[*map(Precision.parse, PRECISIONS)])
    every = [field.name for field in fields(Switches)]
    parser.add_argument("--switches", nargs="+", choices=every, default=every, help="switches to change; default: all")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/quality.json")
    parser.add_argument("--markdown", type=Path, help="the page to write, such as docs/ablation.md; default: none")
    add_options(parser)
    arguments = parser.parse_args()
    conditions = Conditions.of(arguments)
    specs = {
        model: row_specs(model, arguments.precisions, arguments.methods, arguments.switches, conditions)
        for model in arguments.model or ["builtin"]
    }
    known = measure_missing([spec for one in specs.values() for spec in one.values()], RowFile(arguments.json))
    if arguments.markdown is not None:
        command = shlex.join(["python", "benchmarks/ablation.py", *sys.argv[1:]])
        found = {
            model: {key: known[spec] for key, spec in one.items() if spec in known} for model, one in specs.items()
        }
        arguments.markdown.write_text(page(found, conditions, command))


if __name__ == "__main__":
    main()
