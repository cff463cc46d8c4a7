"""Precisions by what a person gives: the notation, the JSON of a mix, or its name, which the runs made with it know."""

import json

from abq_core.mix import MixError, ModelPrecision, is_mix_name
from abq_core.precision import Precision
from abq_core.spec import read_precision
from storage.runs import Runs


def find_precision(runs: Runs, text: str) -> ModelPrecision:
    """Read the notation or what `abq allocate` wrote, or look a mix's name up among the runs. Raises PrecisionError."""
    name = text.strip()
    if name.startswith("{"):
        return _written(name)
    if not is_mix_name(name):
        return Precision.parse(name)
    for run in runs.list():
        if run.precision == name:
            return read_precision(run.spec)
    raise MixError(
        f"No run here was made with the mix {name}, so what it gives to each linear is not known. "
        "Calibrate it from the file that `abq allocate` wrote."
    )


def _written(text: str) -> ModelPrecision:
    """The precision in the JSON that `abq allocate` wrote."""
    try:
        content = json.loads(text)
        return read_precision(content)
    except (json.JSONDecodeError, KeyError, RecursionError) as error:
        raise MixError(
            f"This is not what `abq allocate` writes ({type(error).__name__}: {error}): it has precision and mix."
        ) from error
