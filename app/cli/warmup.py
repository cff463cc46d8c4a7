"""abq warmup: the engine's functions compiled before they are needed."""

from dataclasses import asdict
from typing import Annotated

import typer

from app import formatting
from app.cli.answers import Answer, JsonOption, answers
from app.notation import parse_list
from kernels.environment import check_environment


@answers
def warmup(
    precisions: Annotated[
        str | None, typer.Option("--precisions", help="With commas between; default: whatever the engine has.")
    ] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Compile the integer engine for this processor and keep it on disk. Example: abq warmup --precisions W2A8,W4A4"""
    check_environment()
    from kernels.warm_up import EVERY_PATH, warm_up

    done = warm_up(EVERY_PATH if precisions is None else parse_list(precisions))
    what = f"{done.compiled} functions were compiled" if done.compiled else "Nothing was left to compile"
    text = f"{what}, and {', '.join(done.paths)} are ready, in {formatting.seconds(done.seconds)}."
    return Answer(asdict(done), text)
