"""What each component of a method is worth: one switch changed at a time; writes docs/ablation.md and ablation-plus.md.

    python benchmarks/ablation.py --methods abq --markdown docs/ablation.md
    python benchmarks/ablation.py --methods abq+ --markdown docs/ablation-plus.md

The changes follow from the fields of `Switches`. Rows are kept in the JSON file as they are finished, so that a run
that was cut goes on where it was; it is the file of `quality.py`, so that neither measures what the other did.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

from ablation_page import Key, page
from answers import answers
from conditions import Conditions, add_options
from measuring import FULL_PRECISION, Question
from row_file import RowFile

from abq_core.precision import FULL, Precision
from abq_core.spec import METHODS, SpecError, Switches

ROOT = Path(__file__).parent.parent
PRECISIONS = ("W4A4", "W2A8", "W2*A8")
LEARNED_METHODS = [name for name, switches in METHODS.items() if switches.dlc]  # the paper's, and what builds on it


def changes(switches: Switches, precision: Precision) -> dict[str, Switches]:
    """The switches with one field changed, by what was changed, such as `clipping=false`.

    A field with two values is turned over; one with more takes each of its other values. Left out: what a precision or
    another switch makes meaningless, and combinations that `Switches` refuses.
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


def questions(
    model: str, precisions: Sequence[Precision], methods: Sequence[str], names: Sequence[str], conditions: Conditions
) -> dict[Key, Question]:
    """By method, precision and change; the change "" is the method itself, the method "" full precision.

    names: the switches to change.
    """
    asked = {("", str(FULL), ""): Question(model, str(FULL), FULL_PRECISION, None, False, conditions)}
    for method in methods:
        for precision in precisions:
            variants = {"": METHODS[method], **changes(METHODS[method], precision)}
            for change, switches in variants.items():
                if change and change.partition("=")[0] not in names:
                    continue
                key = (method, str(precision), change)
                asked[key] = Question(model, str(precision), method, switches, switches.symmetric, conditions)
    return asked


def main() -> None:
    """Parse the command line, measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="builtin, a folder or a hub id; may stand several times")
    parser.add_argument("--methods", nargs="+", choices=LEARNED_METHODS, default=LEARNED_METHODS)
    parser.add_argument("--precisions", nargs="+", type=Precision.parse, default=[*map(Precision.parse, PRECISIONS)])
    every = [field.name for field in fields(Switches)]
    parser.add_argument("--switches", nargs="+", choices=every, default=every, help="those to change; all without it")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/quality.json")
    parser.add_argument("--markdown", type=Path, help="the page to write, such as docs/ablation.md; none without it")
    add_options(parser)
    arguments = parser.parse_args()
    conditions = Conditions.of(arguments)
    asked = {
        model: questions(model, arguments.precisions, arguments.methods, arguments.switches, conditions)
        for model in arguments.model or ["builtin"]
    }
    known = answers([question for one in asked.values() for question in one.values()], RowFile(arguments.json))
    if arguments.markdown is not None:
        command = shlex.join(["python", "benchmarks/ablation.py", *sys.argv[1:]])
        found = {
            model: {key: known[question] for key, question in one.items() if question in known}
            for model, one in asked.items()
        }
        arguments.markdown.write_text(page(found, conditions, command))


if __name__ == "__main__":
    main()
