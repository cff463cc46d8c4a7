"""abq texts: which text to calibrate on."""

from typing import TYPE_CHECKING, Annotated

import typer

from abq_core.spec import CalibrationSpec
from abq_core.text.sources import CHOICES
from app import formatting
from app.cli.allocate import read_precision_option
from app.cli.session import open_services
from app.cli.terminal.answers import FAILURE, Answer, JsonOption, Table, answers
from app.notation import parse_list

if TYPE_CHECKING:
    import pandas


@answers
def texts(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="builtin, a model folder or .gguf file, or a Hugging Face id.")
    ],
    on: Annotated[str, typer.Option("--on", help=f"Texts, comma-separated: {CHOICES}.")],
    precision: Annotated[str, typer.Option("--precision", help="The notation of abq calibrate, or mix.json.")],
    method: Annotated[str, typer.Option("--method", help="A method of abq calibrate.")] = "abq",
    segments: Annotated[int, typer.Option("--segments", help="Segments of calibration text.")] = 32,
    seq_len: Annotated[int, typer.Option("--seq-len", help="Tokens per segment.")] = 256,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Default: the method's.")] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Calibrate on each text, and measure every result on every text.

    Runs and evaluations that exist are used again. Of a file, the first nine tenths are for calibration and the last
    tenth for evaluation.

    Examples:

      abq texts builtin --precision 'W2*A8' --on builtin,notes.txt

      abq texts ./my-llama --precision W4A4 --on wikitext2,c4,code.jsonl --epochs 5 --json
    """
    services = open_services()
    spec = CalibrationSpec(
        model=model,
        precision=read_precision_option(services, precision),
        method=method,
        segments=segments,
        seq_len=seq_len,
        epochs=epochs,
        device=services.settings.device,
    )
    from app.jobs.foreground import bring_to_end
    from app.jobs.progress_line import ProgressLine
    from app.services.texts.text_lab import short_names

    chosen = parse_list(on)
    runs = services.sweeps.queue(services.text_lab.plan(spec, chosen))
    for run in runs:
        job = services.jobs.get(run)
        if job.state in ("queued", "running"):
            bring_to_end(services, job, f"calibrate on {job.spec['data']}")
    with ProgressLine() as line:

        def on_step(done: int, total: int) -> None:
            line.show("evaluate", done / max(total, 1), "Measuring every run on every text.", None)

        cells = services.text_lab.measure(services.text_lab.plan(spec, chosen), on_step)
    names = short_names(list(dict.fromkeys(cells["calibrated_on"])))
    missing = int(cells["run"].eq("").sum())
    said = "KL to full precision in nats: rows are calibrated on a text, columns evaluated on one.\n"
    failed = "A calibration did not succeed: abq jobs list shows why.\n" if missing else ""
    content = {"model": model, "precision": precision, "method": method, "texts": cells.to_dict("records")}
    return Answer(content, [_table(cells, names), said + failed], FAILURE if missing else 0)


def _table(cells: "pandas.DataFrame", names: dict[str, str]) -> Table:
    """One row per calibration text, one column per evaluation text."""
    kl = cells.pivot(index="calibrated_on", columns="evaluated_on", values="kl_mean")
    rows = [[name, *(formatting.nats(kl.loc[text, other]) for other in names)] for text, name in names.items()]
    return Table(["Calibrated on", *names.values()], rows)
