"""Precisions as typed: the notation, the JSON of a mix, or the name of a stored mix."""

import json

from abq_core.mix import MixError, ModelPrecision, is_mix_name
from abq_core.precision import Precision
from abq_core.spec import read_precision
from storage.runs import Runs


def find_precision(runs: Runs, text: str) -> ModelPrecision:
    """Parse the notation or the JSON of `abq allocate`, or find a mix by name among the runs.

    Raises PrecisionError.
    """
    name = text.strip()
    if name.startswith("{"):
        return _from_json(name)
    if not is_mix_name(name):
        return Precision.parse(name)
    for run in runs.list():
        if run.precision == name:
            return read_precision(run.spec)
    raise MixError(
        f"No run has the mix {name}, so the precision of each linear is unknown. "
        "Calibrate it from the file that `abq allocate` wrote."
    )


def _from_json(text: str) -> ModelPrecision:
    """Parse the JSON of `abq allocate`."""
    try:
        content = json.loads(text)
        return read_precision(content)
    except (json.JSONDecodeError, KeyError, RecursionError) as error:
        raise MixError(
            "This JSON is not from `abq allocate`, whose files have precision and mix "
            f"({type(error).__name__}: {error})."
        ) from error
