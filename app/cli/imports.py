"""abq import: make a run of a model that another program quantized."""

from typing import Annotated

import typer

from app.cli.answers import Answer, JsonOption, answers
from app.cli.calibrate import ended
from app.cli.options import DataOption
from app.cli.session import open_services
from app.settings import Settings


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

        return ended(services, bring_to_end(services, job, f"import {job.spec['precision']}"))
    from app.jobs.executors.local import start_detached

    start_detached(settings)
    text = f"Run {job.run_id} is queued (job {job.id}). `abq jobs show {job.id}` shows its progress."
    return Answer({"run": job.run_id, "job": job.id, "state": job.state}, text)
