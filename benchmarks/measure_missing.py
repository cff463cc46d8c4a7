"""The loop of a benchmark: measures the rows that its file does not contain yet, and prints the results."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from measure_row import measure
from peer_weights import PeerError
from row_file import RowFile
from row_spec import RowSpec

from abq_core.calibration.calibrate import CalibrationError
from abq_core.evaluation.perplexity import EvaluationError


class DifferentTextError(ValueError):
    """Rows of one model were evaluated on different text and cannot be compared."""


def measure_missing(
    specs: Sequence[RowSpec], file: RowFile, again: Sequence[str] = ()
) -> dict[RowSpec, dict[str, Any]]:
    """Return the results of every row.

    Measure those that the file lacks, and those of the methods in `again`.
    A row that fails or has no perplexity is stored with its `error`; a peer that does not run is reported and omitted.
    Raises DifferentTextError if the rows of a model were not evaluated on the same text.
    """
    known: dict[RowSpec, dict[str, Any]] = {}
    for number, spec in enumerate(specs, 1):
        found = None if spec.method in again else file.find(spec.key())
        if found is None:
            try:
                found = measure(spec)
            except (CalibrationError, EvaluationError) as error:
                found = {"error": str(error)}
            except PeerError as error:
                print(f"{spec.label} is omitted: {error}", file=sys.stderr, flush=True)
                continue
            file.add(spec.key(), found)
        known[spec] = found
        shown = json.dumps({key: value for key, value in found.items() if key != "segment_losses"})
        print(f"{number}/{len(specs)} {spec.label} {shown}", flush=True)
    _check_text(known)
    return known


def _check_text(known: Mapping[RowSpec, Mapping[str, Any]]) -> None:
    """Check that all rows of a model read the same segments, because they are compared segment by segment."""
    first: dict[str, tuple[RowSpec, str | None]] = {}
    for spec, found in known.items():
        if "error" in found:
            continue
        text = found.get("text_sha256")
        other, expected = first.setdefault(spec.model, (spec, text))
        if text != expected:
            raise DifferentTextError(
                f"{spec.label} and {other.label} were evaluated on different text: the data or the tokenizer "
                "changed between them. Measure the older ones --again."
            )
