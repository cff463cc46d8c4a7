"""abq warmup: compile the engine's kernels ahead of time."""

from dataclasses import asdict
from typing import Annotated

import typer

from app import formatting
from app.cli.terminal.answers import Answer, JsonOption, answers
from app.notation import parse_list
from kernels.environment import check_environment


@answers
def warmup(
    precisions: Annotated[
        str | None, typer.Option("--precisions", help="Comma-separated. Default: all that the engine supports.")
    ] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Compile and cache the integer engine.

    It is compiled for this processor.

    Example: abq warmup --precisions W2A8,W4A4
    """
    check_environment()
    from kernels.warm_up import EVERY_PATH, warm_up

    done = warm_up(EVERY_PATH if precisions is None else parse_list(precisions))
    what = f"Compiled {done.compiled} functions" if done.compiled else "All functions were already compiled"
    text = f"{what} in {formatting.seconds(done.seconds)}. Ready: {', '.join(done.paths)}."
    return Answer(asdict(done), text)
