"""Perplexity of our methods and of peers on the same models, text and precisions; writes docs/results.md.

    python benchmarks/quality.py --model builtin --model /tmp/models/qwen2-small

Rows are kept in the JSON file as they are finished: a run that was cut goes on where it was. Peers need their packages
(`make peers`); without them their columns are left out. See benchmarks/README.md.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from answers import answers
from conditions import Conditions, add_options
from measuring import FULL_PRECISION, Question
from peer_weights import PEERS, is_peer, supports
from quality_page import page
from row_file import RowFile

from abq_core.precision import FULL, Precision
from abq_core.spec import METHODS

ROOT = Path(__file__).parent.parent
PRECISIONS = ("W4A8", "W4A4", "W3A8", "W2A8", "W2*A8")


def questions(
    models: Sequence[str], precisions: Sequence[str], methods: Sequence[str], symmetric: bool, conditions: Conditions
) -> Iterator[Question]:
    """The full-precision row of each model, then each precision with each method that knows it."""
    for model in models:
        yield Question(model, str(FULL), FULL_PRECISION, None, False, conditions)
        for precision in precisions:
            for method in methods:
                if is_peer(method) and not supports(Precision.parse(precision)):
                    continue
                switches = replace(METHODS[method], symmetric=True) if symmetric and method in METHODS else None
                yield Question(model, precision, method, switches, symmetric, conditions)


def _method(text: str) -> str:
    if text not in METHODS and not is_peer(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join([*METHODS, *PEERS])}")
    return text


def main() -> None:
    """Parse the command line, measure what is missing, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="builtin, a folder or a hub id; may stand several times")
    parser.add_argument(
        "--methods",
        nargs="+",
        type=_method,
        default=[*METHODS, *PEERS],
        help="ours, gptq, autoround; gptq@1536: with that many segments of the text of our end-to-end pass",
    )
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--symmetric", action="store_true", help="weights without zero points, ours and the peers'")
    parser.add_argument("--again", nargs="+", default=[], help="methods to measure even if the file has their rows")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/quality.json")
    parser.add_argument("--markdown", type=Path, help="the page to write, such as docs/results.md; none without it")
    add_options(parser)
    arguments = parser.parse_args()
    precisions = [str(Precision.parse(text)) for text in arguments.precisions]
    conditions = Conditions.of(arguments)
    asked = list(
        questions(arguments.model or ["builtin"], precisions, arguments.methods, arguments.symmetric, conditions)
    )
    known = answers(asked, RowFile(arguments.json), arguments.again)
    if arguments.markdown is not None:
        command = shlex.join(["python", "benchmarks/quality.py", *sys.argv[1:]])
        arguments.markdown.write_text(page(known, conditions, command))


if __name__ == "__main__":
    main()
