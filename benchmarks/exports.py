"""Export models in every format and write the table of docs/export.md.

    python benchmarks/exports.py builtin:abq:2 /models/SmolLM2-135M-Instruct:rtn

Each argument is MODEL:METHOD[:EPOCHS]. Runs are short, because a table of exports needs no good run. Results are kept
in benchmarks/results/exports.json; rows of other models stay, and several processes may add to them. With `--speed`, on
an idle machine, the rows measured now have tokens/s. `--rotated` calibrates with a folded rotation instead of a
transform at run time.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pages.measured_part import replace_measured
from row_file import RowFile

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.export.errors import ExportError
from abq_core.export.formats import FORMATS, Options, export_run
from abq_core.export.model_card import public_name
from abq_core.export.source import ExportSource
from abq_core.methods import METHODS
from abq_core.models.loading import load_model
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.formatting import size

PRECISIONS = ("W4A8", "W2A8", "W2*A8", "W3A8", "W8A8", "W4A16g64")
SYMMETRIC = "W8A8"  # also with symmetric levels, which 8-bit formats require
ROTATED = "rotated"
ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "exports.json", ROOT / "docs" / "export.md"
PASS_SEGMENTS = 32  # of the end-to-end pass
Row = Mapping[str, Any]


def rows_of(
    ref: str, method: str, epochs: int | None, precisions: tuple[str, ...], *, speed: bool, rotated: bool
) -> Iterator[tuple[Row, Row]]:
    """The key and the results of each precision and format.

    speed: whether tokens/s count.  rotated: with a folded rotation, and without a transform at run time.
    """
    base = load_model(ref)
    for text in precisions:
        for symmetric in (False, True) if text == SYMMETRIC else (False,):
            switches = replace(METHODS[method], symmetric=symmetric)
            if rotated:
                switches = replace(switches, hadamard=False, rotation=True)
            store = MemoryStore()
            amount = {"segments": 8, "seq_len": 128, "epochs": epochs}
            if switches.end_to_end:
                amount["end_to_end_segments"] = PASS_SEGMENTS
            spec = CalibrationSpec(ref, Precision.parse(text), method, switches, **amount)  # type: ignore[arg-type]
            calibrate(base, spec, store)
            source = ExportSource.of(base, spec, store, {"method": method})
            marks = (("symmetric", symmetric), (ROTATED, rotated))
            name = ", ".join([text, *(mark for mark, is_so in marks if is_so)])
            for format in FORMATS:
                key = {"model": public_name(ref), "method": method, "precision": name, "format": format}
                yield key, exported(source, format) if speed else without_speed(exported(source, format))


def exported(source: ExportSource, format: str) -> Row:
    """The result of one export; one that is refused is tried again with `nearest`."""
    refused = ""
    with tempfile.TemporaryDirectory(prefix="abq-exports-") as folder:
        for nearest in (False, True):
            try:
                done = export_run(
                    source, format, Path(folder) / "out", Options(nearest=nearest), dict(os.environ), _ignore
                )
            except ExportError as error:
                refused = str(error)
                continue
            return {**asdict(done), "path": "", "nearest": nearest}
    return {"refused": refused}


def without_speed(row: Row) -> Row:
    """The row without tokens/s, which are wrong where other work runs."""
    return {**row, "proof": {**row["proof"], "tokens_per_second": None}} if "proof" in row else row


def _ignore(done: int, total: int) -> None:
    """Do nothing at a step."""


def table(rows: list[Row]) -> str:
    """The Markdown of all rows."""
    header = ["model", "method", "precision", "format", "loads", "size", "bits per parameter"]
    header += ["largest logit difference", "its median", "KL in nats", "of float noise", "equal greedy tokens"]
    lines = [[*header, "tokens/s"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [row["model"], f"`{row['method']}`", row["precision"].replace("*", "\\*")]
        cells += _refused(row) if "refused" in row else _exported(row)
        lines.append(cells + [""] * (len(lines[0]) - len(cells)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _refused(row: Row) -> list[str]:
    reason = row["refused"].partition(". ")[0]
    return [f"`{row['format']}`", f"refused: {reason}"]


def _exported(row: Row) -> list[str]:
    """Format, whether it loads, size, and the numbers of the proof."""
    proof = row["proof"]
    cells = [f"`{row['format']}{' --nearest' if row['nearest'] else ''}`"]
    cells += ["yes" if proof["checked"] else f"not checked: {proof['reason']}", size(row["bytes"])]
    cells += [f"{row['bits_per_parameter']:.2f}"]
    if not proof["checked"]:
        return cells
    cells += [
        f"{proof['largest_logit_difference']:.2g} of {proof['logit_range']:.0f}",
        f"{proof['median_logit_difference']:.2g}",
        f"{proof['kl']:.1e}",
        f"{proof['kl_of_float_noise']:.1e}",
        f"{proof['greedy_tokens']} of {proof['new_tokens']}",
    ]
    speed = proof["tokens_per_second"]
    return [*cells, "" if speed is None else f"{speed:.0f}"]


def _place(row: Row) -> tuple[bool, str, int, int, str]:
    """The place of a stored row: the built-in model first, then by method, in the order of the precisions."""
    asked = row["asked"]
    precision, _, marks = asked["precision"].partition(", ")
    order = PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)
    return asked["model"] != "builtin", asked["model"], list(METHODS).index(asked["method"]), order, marks


def main() -> None:
    """Measure, keep the results, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL:METHOD[:EPOCHS]")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--speed", action="store_true", help="store tokens/s, which need an idle machine")
    parser.add_argument(f"--{ROTATED}", action="store_true", help="rotation=true, hadamard=false")
    arguments = parser.parse_args()
    chosen = {"speed": arguments.speed, ROTATED: arguments.rotated}
    file = RowFile(RESULTS)
    for text in arguments.models:
        ref, method, *epochs = text.split(":")
        precisions = tuple(arguments.precisions.split(","))
        for key, found in rows_of(ref, method, int(epochs[0]) if epochs else None, precisions, **chosen):
            print(key, found.get("proof"), file=sys.stderr, flush=True)
            file.add(key, found)
    rows = [{**row["found"], **row["asked"]} for row in sorted(file.rows(), key=_place)]
    replace_measured(PAGE, table(rows))


if __name__ == "__main__":
    main()
