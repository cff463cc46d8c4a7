"""abq quickstart: calibrate, measure and report in one command."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import formatting
from app.cli.calibrate import EVALUATION_HEADER, evaluation_cells
from app.cli.session import open_services
from app.cli.terminal.answers import Answer, JsonOption, Table, answers

if TYPE_CHECKING:
    from app.services import Services

PRECISIONS = ("W4A4", "W2*A8")
METHODS = ("rtn", "abq")
ROW_FIELDS = (
    "run", "precision", "method", "perplexity", "perplexity_stderr", "kl_mean", "kl_floor", "same_top", "stored_bits",
    "information_bits", "weight_bytes", "bits_per_parameter", "model_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """Amounts of calibration and evaluation text, and passes over the former."""

    segments: int
    seq_len: int
    epochs: int
    eval_segments: int
    eval_seq_len: int


@answers
def quickstart(
    model: Annotated[
        str, typer.Option("--model", help="builtin, a model folder or .gguf file, or a Hugging Face id.")
    ] = "builtin",
    segments: Annotated[int, typer.Option("--segments", min=1, help="Segments of calibration text.")] = 32,
    seq_len: Annotated[int, typer.Option("--seq-len", min=8, help="Tokens per segment.")] = 256,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Passes over the segments.")] = 8,
    eval_segments: Annotated[int, typer.Option("--eval-segments", min=2, help="Segments of held-out text.")] = 128,
    eval_seq_len: Annotated[int, typer.Option("--eval-seq-len", min=2, help="Tokens per segment.")] = 512,
    as_json: JsonOption = False,
) -> Answer:
    """Calibrate the built-in model at W4A4 and W2*A8 with rtn and abq, and write a report.

    Takes minutes.

    Example: abq quickstart --json
    """
    started = time.perf_counter()
    services = open_services()
    runs = _run_jobs(services, Texts(segments, seq_len, epochs, eval_segments, eval_seq_len), model)
    path = services.settings.reports_dir / f"quickstart-{datetime.now():%Y%m%d-%H%M%S}.html"
    rows, report = _rows(services, runs), services.reports.write(runs, path)
    seconds = time.perf_counter() - started
    data = {"rows": rows, "report": str(report), "seconds": round(seconds, 1)}

    def text() -> Iterator[str | Table]:
        yield Table([*EVALUATION_HEADER, "Perplexity above"], [[*evaluation_cells(row), _gap(row)] for row in rows])
        yield f"Report: {report}\nTook {formatting.seconds(seconds)}.\n"

    return Answer(data, text())


def _run_jobs(services: "Services", texts: Texts, model: str) -> list[str]:
    """Run the jobs in this process, one after the other.

    Returns their run ids. Raises ServiceError if one fails.
    """
    from abq_core.precision import Precision
    from abq_core.spec import CalibrationSpec
    from app.jobs.foreground import bring_to_end
    from app.services import ServiceError

    combinations = [(precision, method) for precision in PRECISIONS for method in METHODS]
    runs = []
    for number, (precision, method) in enumerate(combinations, start=1):
        spec = CalibrationSpec(
            model=model,
            precision=Precision.parse(precision),
            method=method,
            segments=texts.segments,
            seq_len=texts.seq_len,
            epochs=texts.epochs,
            device=services.settings.device,
        )
        label = f"{number} of {len(combinations)}  {precision} {method}"
        evaluation = (texts.eval_segments, texts.eval_seq_len)
        job = bring_to_end(services, services.jobs.submit(spec), label, evaluation)
        if job.state != "succeeded":
            raise ServiceError(f"Job {job.id} ({precision} {method}) {job.state}. {job.error or ''}".strip())
        runs.append(job.run_id)
    return runs


def _rows(services: "Services", runs: list[str]) -> list[dict[str, Any]]:
    """Rows of full precision and of each run, with the paired perplexity gaps.

    A gap is to the next better row.
    """
    from abq_core.evaluation.perplexity import perplexity_gap
    from app.services.dataframes import same_evaluation

    frame = services.runs.frame()
    model = services.runs.get(runs[0]).model
    calibrated = frame.set_index("run", drop=False).loc[runs].to_dict("records")
    full = [row for row in frame[frame["run"] == ""].to_dict("records") if same_evaluation(row, calibrated[0])][:1]
    rows = [{name: row[name] for name in ROW_FIELDS} for row in [*full, *calibrated]]
    by_name = {(row["precision"], row["method"]): row for row in rows}
    losses = {row["run"]: services.evaluation.segment_losses(model, row["run"] or None, runs[0]) for row in rows}
    for precision in PRECISIONS:
        better = rows[0]
        for method in reversed(METHODS):
            row = by_name[(precision, method)]
            gap, stderr = perplexity_gap(losses[better["run"]], losses[row["run"]])
            row |= {"above": better["method"], "gap": gap, "gap_stderr": stderr}
            better = row
    return rows


def _gap(row: dict[str, Any]) -> str:
    """The perplexity gap to the next better row, with its standard error."""
    if "gap" not in row:
        return ""
    better = "full precision" if row["above"] == "none" else row["above"]
    return f"{better} by {formatting.perplexity(row['gap'], row['gap_stderr'])}"
