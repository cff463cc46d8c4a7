"""The conditions that all rows of a benchmark share: text, seed and effort.

Also defines their command-line options.
"""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from peer_weights import PEER_PYTHON

from abq_core.methods import METHOD_TABLE
from abq_core.spec import DEFAULT_END_TO_END_SEGMENTS


@dataclass(frozen=True)
class Conditions:
    """Text, seed and effort of a benchmark.

    data, seed: of calibration and evaluation.  segments, seq_len: of calibration.  epochs: of our methods that learn.
    end_to_end_segments: of methods with an end-to-end pass.  steps: of peers that learn.  peer_python: the interpreter
    with the peers' packages.
    """

    data: str
    segments: int
    seq_len: int
    epochs: int
    end_to_end_segments: int
    steps: int
    eval_segments: int
    eval_seq_len: int
    seed: int
    peer_python: Path

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Conditions":
        """Read the conditions from the arguments of a parser with `add_options`."""
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(cls)})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the conditions to a parser."""
    parser.add_argument("--data", default="builtin", help="builtin, wikitext2, c4, or a .txt or .jsonl file")
    parser.add_argument("--segments", type=int, default=32, help="calibration segments")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens per segment")
    parser.add_argument("--epochs", type=int, default=METHOD_TABLE["abq"].epochs, help="epochs of learned methods")
    parser.add_argument(
        "--end-to-end-segments",
        type=int,
        default=DEFAULT_END_TO_END_SEGMENTS,
        help="segments of the end-to-end pass",
    )
    parser.add_argument("--steps", type=int, default=200, help="steps of AutoRound, each with 8 segments")
    parser.add_argument("--eval-segments", type=int, default=128)
    parser.add_argument("--eval-seq-len", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--peer-python", type=Path, default=PEER_PYTHON, help="the interpreter with the peers' packages (make peers)"
    )
