"""Options that several commands share."""

from typing import Annotated

import typer

from abq_core.methods import SWITCHES, SpecError, Switches, default_switches, read_switches
from abq_core.text.sources import CHOICES

RunOrModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_MODEL", help="A run id, builtin, a model folder or .gguf file, or a Hugging Face id."
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, such as r-0123456789.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job id or a run id.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
DataOption = Annotated[str, typer.Option("--data", help=f"{CHOICES}; name@revision for a hub text.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all random choices.")]


class OptionError(ValueError):
    """An option with an invalid value, or options that exclude each other."""


def switch_option(method: str, texts: list[str]) -> Switches:
    """The switches of a method with the NAME=VALUE changes of `--switch`. Raises SpecError."""
    changes: dict[str, object] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in SWITCHES:
            raise SpecError(f"--switch {text!r} is not NAME=VALUE with a name of {', '.join(SWITCHES)}.")
        changes[name] = value
    defaults = default_switches(method)
    try:
        return read_switches(changes, defaults)
    except SpecError as error:
        raise SpecError(f"--switch: {error}") from error
