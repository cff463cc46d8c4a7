"""Perplexity of our methods and of peers on the same models, text and precisions.

Writes docs/results.md.
    python benchmarks/quality.py --model builtin --model qwen2-small

Rows are written to the JSON file as they finish, so that an interrupted run can be resumed. Peers need their packages
(`make peers`); without them their columns are omitted. See benchmarks/README.md.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from conditions import Conditions, add_options
from measure_missing import measure_missing
from pages.measured_part import replace_measured
from pages.quality_page import page
from peer_weights import PEERS, is_peer, supports
from row_file import RowFile
from row_spec import FULL_PRECISION, RowSpec

from abq_core.precision import FULL, Precision
from abq_core.spec import METHODS

ROOT = Path(__file__).parent.parent
PRECISIONS = ("W4A8", "W4A4", "W3A8", "W2A8", "W2*A8")


def row_specs(
    models: Sequence[str], precisions: Sequence[str], methods: Sequence[str], symmetric: bool, conditions: Conditions
) -> Iterator[RowSpec]:
    """The full-precision row of each model, then each precision with each method that supports it."""
    for model in models:
        yield RowSpec(model, str(FULL), FULL_PRECISION, None, False, conditions)
        for precision in precisions:
            for method in methods:
                if is_peer(method) and not supports(Precision.parse(precision)):
                    continue
                switches = replace(METHODS[method], symmetric=True) if symmetric and method in METHODS else None
                yield RowSpec(model, precision, method, switches, symmetric, conditions)


def _method(text: str) -> str:
    if text not in METHODS and not is_peer(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join([*METHODS, *PEERS])}")
    return text


def main() -> None:
    """Parse the command line, measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="builtin, a folder or a hub id; repeatable")
    parser.add_argument(
        "--methods",
        nargs="+",
        type=_method,
        default=[*METHODS, *PEERS],
        help="our methods, gptq, autoround; gptq@1536 calibrates with 1536 segments of the text of our end-to-end pass",
    )
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--symmetric", action="store_true", help="symmetric weights, for our methods and the peers")
    parser.add_argument("--again", nargs="+", default=[], help="methods to measure again even if the file has them")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/quality.json")
    parser.add_argument("--markdown", type=Path, help="page whose measured part to replace, such as docs/results.md")
    add_options(parser)
    arguments = parser.parse_args()
    precisions = [str(Precision.parse(text)) for text in arguments.precisions]
    conditions = Conditions.of(arguments)
    specs = list(
        row_specs(arguments.model or ["builtin"], precisions, arguments.methods, arguments.symmetric, conditions)
    )
    known = measure_missing(specs, RowFile(arguments.json), arguments.again)
    if arguments.markdown is not None:
        command = shlex.join(["python", "benchmarks/quality.py", *sys.argv[1:]])
        replace_measured(arguments.markdown, page(known, conditions, command))


if __name__ == "__main__":
    main()
