"""abq quickstart: the main job in one command."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from app import formatting
from app.cli.answers import Answer, JsonOption, Table, answers
from app.cli.calibrate import EVALUATION_HEADER, evaluation_cells
from app.cli.session import open_services


@answers
def quickstart(
    model: Annotated[str, typer.Option("--model", help="builtin, a folder or a hub id.")] = "builtin",
    segments: Annotated[int, typer.Option("--segments", min=1, help="Pieces of text to calibrate on.")] = 32,
    seq_len: Annotated[int, typer.Option("--seq-len", min=8, help="Tokens in each.")] = 256,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Passes over them.")] = 8,
    eval_segments: Annotated[int, typer.Option("--eval-segments", min=2, help="Pieces of text to evaluate on.")] = 128,
    eval_seq_len: Annotated[int, typer.Option("--eval-seq-len", min=2, help="Tokens in each.")] = 512,
    as_json: JsonOption = False,
) -> Answer:
    """Calibrate the built-in model at W4A4 and W2*A8, rounded and corrected, and write a report. Takes minutes.

    Example: abq quickstart --json
    """
    services = open_services()
    from app.cli.quickstart_runs import Amount, run_quickstart

    result = run_quickstart(services, Amount(segments, seq_len, epochs, eval_segments, eval_seq_len), model)
    data = {"rows": result.rows, "report": str(result.report), "seconds": round(result.seconds, 1)}

    def text() -> Iterator[str | Table]:
        yield Table(
            [*EVALUATION_HEADER, "Perplexity above"],
            [[*evaluation_cells(row), _gap(row)] for row in result.rows],
        )
        yield f"Report: {result.report}\nTook {formatting.seconds(result.seconds)}.\n"

    return Answer(data, text())


def _gap(row: dict[str, Any]) -> str:
    """How far a row is above the next better one, with the standard error of that difference."""
    if "gap" not in row:
        return ""
    better = "full precision" if row["above"] == "none" else row["above"]
    return f"{better} by {row['gap']:.2f} ± {row['gap_stderr']:.2f}"
