"""abq calibrate and abq import: queue the job that makes a run, or run it in the foreground."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abq_core.methods import METHODS, SWITCHES
from abq_core.precision import NOTATION
from abq_core.spec import CalibrationSpec
from app import formatting
from app.cli.allocate import read_precision_option
from app.cli.options import DataOption, SeedOption, switch_option
from app.cli.session import open_services, tell_stored_weights
from app.cli.terminal.answers import FAILURE, USER_ERROR, Answer, JsonOption, Table, answers
from app.cli.terminal.planned import needs, planned_row, planned_table
from app.settings import Settings

if TYPE_CHECKING:
    from app.services import Services
    from storage.jobs import Job


@answers
def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="builtin, a model folder or .gguf file, or a Hugging Face id.")
    ],
    precision: Annotated[str, typer.Option("--precision", help=f"{NOTATION}, such as W2*A8, or mix.json.")],
    method: Annotated[str, typer.Option("--method", help=", ".join(METHODS))] = "abq",
    data: DataOption = "builtin",
    segments: Annotated[int, typer.Option("--segments", help="Segments of calibration text.")] = 32,
    seq_len: Annotated[int, typer.Option("--seq-len", help="Tokens per segment.")] = 256,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the segments. Default: the method's.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Segments per optimizer step of a block.")] = 1,
    end_to_end_segments: Annotated[
        int | None,
        typer.Option("--end-to-end-segments", help="Segments that the end-to-end pass of abq+ reads, once each."),
    ] = None,
    seed: SeedOption = 0,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda. Default: ABQ_DEVICE, or cpu.")] = None,
    switch: Annotated[
        list[str] | None,
        typer.Option(
            "--switch",
            help=f"NAME=VALUE changes one component of the method, such as akl=false. Names: {', '.join(SWITCHES)}.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the estimated cost without queueing a job.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Run it in the foreground, with progress on stderr.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Calibrate a model at a precision.

    Without --wait, the job is queued and a background worker runs it.

    Examples:

      abq calibrate builtin --precision 'W2*A8' --wait

      abq calibrate ./my-llama --precision W4A4 --method omniquant --data notes.txt --segments 64 --json

      abq calibrate ./my-llama --precision W2A8 --method abq+ --dry-run
    """
    settings = Settings.from_environment()
    services = open_services(settings)
    spec = CalibrationSpec(
        model=model,
        precision=read_precision_option(services, precision),
        method=method,
        switches=switch_option(method, switch or []),
        data=data,
        segments=segments,
        seq_len=seq_len,
        epochs=epochs,
        batch=batch,
        end_to_end_segments=end_to_end_segments,
        seed=seed,
        device=device or settings.device,
    )
    if dry_run:
        tell_stored_weights(services, model)
        return _cost(services, spec)
    job = services.jobs.submit(spec)
    tell_stored_weights(services, model)
    if wait:
        from app.jobs.foreground import bring_to_end

        return _ended(services, bring_to_end(services, job, f"{spec.precision} {spec.method}"))
    return _queued(settings, job)


@answers
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="A .gguf file, a GPTQ, AutoRound or compressed-tensors folder, or a Hugging Face id of one.",
        ),
    ],
    base: Annotated[str, typer.Option("--base", help="The full-precision model that it was made from.")],
    data: DataOption = "builtin",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Run it in the foreground, with progress on stderr, or queue it.")
    ] = True,
    as_json: JsonOption = False,
) -> Answer:
    """Import a model that another program quantized, and measure it against its base model.

    It becomes a run of the method "imported", with its size on disk, perplexity and KL. Nothing of it is executed.

    Examples:

      abq import SmolLM2-135M-Instruct.Q4_1.gguf --base ./smollm2-135m

      abq import ./Qwen2.5-0.5B-GPTQ-Int4 --base ./Qwen2.5-0.5B --no-wait --json
    """
    settings = Settings.from_environment()
    services = open_services(settings)
    job = services.imports.submit(source, base, data)
    if wait:
        from app.jobs.foreground import bring_to_end

        sizes = {name: job.spec[name] for name in ("format", "file_bytes")}
        return _ended(services, bring_to_end(services, job, f"import {job.spec['precision']}"), **sizes)
    return _queued(settings, job)


def _cost(services: "Services", spec: CalibrationSpec) -> Answer:
    """The answer of a dry run: what a new run would cost, and whether this machine would refuse it."""
    from abq_core.planning.estimate import EstimateError

    planned = replace(services.sweeps.plan([spec])[0], run=None)  # a calibration never takes an equal run's place
    data, text = planned_row(planned), [planned_table([planned])]
    try:
        services.jobs.check(planned.spec)
    except EstimateError as error:
        return Answer(data | {"error": str(error)}, [*text, f"It would be refused. {error}\n"], USER_ERROR)
    return Answer(data, [*text, f"It would be queued: {needs([planned.estimate])}.\n"])


def _queued(settings: Settings, job: "Job") -> Answer:
    """The answer of a command whose job a background worker runs."""
    from app.jobs.executors.local import start_detached

    start_detached(settings)
    text = f"Run {job.run_id} is queued (job {job.id}). `abq jobs show {job.id}` shows its progress."
    return Answer({"run": job.run_id, "job": job.id, "state": job.state}, text)


def _ended(services: "Services", job: "Job", **more: object) -> Answer:
    """The answer of a command whose job has ended: its evaluation, or why it did not succeed. more: for --json."""
    data: dict[str, Any] = {"run": job.run_id, "job": job.id, "state": job.state, **more}
    if job.state != "succeeded":
        reason = job.error or f"The job is {job.state}."
        return Answer(data | {"error": reason}, f"Run {job.run_id} {job.state}: {reason}", FAILURE)
    row = services.runs.frame().set_index("run").loc[job.run_id]
    data |= {name: row[name] for name in EVALUATION_FIELDS}
    return Answer(data, Table(["Run", *EVALUATION_HEADER], [[job.run_id, *evaluation_cells(row)]]))


EVALUATION_FIELDS = (
    "precision", "method", "perplexity", "perplexity_stderr", "kl_mean", "kl_floor", "same_top", "stored_bits",
    "weight_bytes", "bits_per_parameter", "model_bytes",
)  # fmt: skip
EVALUATION_HEADER = ("Precision", "Method", "Perplexity", "KL to full", "Same top", "Bits (model)", "Weights")


def evaluation_cells(row: Any) -> list[str]:
    """Cells of an evaluation, under EVALUATION_HEADER.

    Bits: stored per weight of the linears; in parentheses per parameter of the whole model.
    """
    return [
        str(row["precision"]),
        str(row["method"]),
        formatting.perplexity(row["perplexity"], row["perplexity_stderr"]),
        formatting.kl(row["kl_mean"], row["kl_floor"]),
        formatting.percent(row["same_top"]),
        f"{formatting.bits(row['stored_bits'])} ({formatting.bits(row['bits_per_parameter'])})",
        formatting.size(row["weight_bytes"]),
    ]
