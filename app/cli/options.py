"""Options that several commands share, and reading their text."""

from typing import Annotated

import typer

from abq_core.methods import SWITCHES, SpecError, Switches, default_switches, read_switches
from abq_core.text.sources import CHOICES
from app.services import ServiceError, throughput

RunOrModel = Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run id, builtin, a folder or a hub id.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, such as r-0123456789.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job id or a run id.")]
DataOption = Annotated[str, typer.Option("--data", help=f"{CHOICES}; name@revision for a hub text.")]
SeedOption = Annotated[int, typer.Option("--seed", help="What every random choice follows from.")]


class OptionError(ValueError):
    """An option whose text cannot be read."""


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


def read_list(text: str) -> list[str]:
    """Words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def read_counts(name: str, text: str) -> list[int]:
    """Whole numbers from 1 between commas. Raises OptionError."""
    words = read_list(text)
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise OptionError(f"{name} is {text!r}: give whole numbers from 1 with commas between, such as 1,8.")
    return [int(word) for word in words]


def read_shapes(text: str) -> list[tuple[int, int]]:
    """Shapes N x K between commas, such as 4096x4096,11008x4096. Raises OptionError."""
    try:
        shapes = throughput.read_shapes(read_list(text))
    except ServiceError as error:
        raise OptionError(f"--shapes: {error}") from error
    if not shapes:
        raise OptionError("--shapes is empty: give outputs x inputs, such as 4096x4096.")
    return shapes
