"""abq export: a run as a checkpoint that another runtime loads."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app import formatting
from app.cli.options import RunId
from app.cli.session import open_services
from app.cli.terminal.answers import Answer, JsonOption, answers

FORMATS = "compressed-tensors (vLLM, transformers), gguf (llama.cpp, Ollama, LM Studio), transformers (with abq_core)."


@answers
def export(
    run: RunId,
    to: Annotated[str, typer.Option("--to", help=FORMATS)],
    out: Annotated[Path, typer.Option("--out", help="The new folder. Its parent must exist; nothing is replaced.")],
    activations: Annotated[
        str,
        typer.Option(
            "--activations",
            help="For compressed-tensors. run: with a zero point per token, as the run; symmetric: as vLLM requires.",
        ),
    ] = "run",
    nearest: Annotated[
        bool, typer.Option("--nearest", help="For gguf: round tensors that no type holds exactly to Q8_0.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="ORG/NAME", help="Upload the folder to a private repository of the hub."),
    ] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Write a run as a checkpoint for another runtime, load it there, and say how far it is from the run.

    Example: abq export r-0123456789 --to compressed-tensors --out smollm2-w4a8
    """
    from abq_core.export.formats import Options
    from abq_core.export.model_card import proof_sentence
    from abq_core.export.push import check_repository
    from abq_core.export.push import push as push_folder
    from app.jobs.progress_line import ProgressLine

    if push is not None:
        check_repository(push)

    with ProgressLine() as line:
        done = open_services().exports.export(
            run, to, out, Options.read(activations, nearest), lambda step, total: line.show(to, step / total, "", None)
        )
    address = None if push is None else push_folder(out.expanduser().absolute(), push)
    lines = [
        f"{done.path}: {formatting.size(done.bytes)}, {formatting.bits(done.bits_per_parameter)} bits per parameter.",
        *(proof_sentence(proof) for proof in (done.proof, *done.more_proofs)),
        *(f"Not kept: {sentence}" for sentence in done.dropped),
    ]
    if address is not None:
        lines.append(f"Pushed to {address}.")
    return Answer({"run": run, **asdict(done), "pushed": address}, "\n".join(lines))
