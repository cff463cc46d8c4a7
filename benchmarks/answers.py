"""The loop of a benchmark: measures the rows that its file does not have yet, and says what it finds."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from measuring import Question, measure
from peer_weights import PeerError
from row_file import RowFile

from abq_core.calibration.calibrate import CalibrationError
from abq_core.evaluation.perplexity import EvaluationError


class DifferentTextError(ValueError):
    """Rows that cannot be compared."""


def answers(questions: Sequence[Question], file: RowFile, again: Sequence[str] = ()) -> dict[Question, dict[str, Any]]:
    """What is known of each question afterwards. again: methods whose rows are measured even if the file has them.

    Raises DifferentTextError where the rows of a model were not evaluated on the same text.

    A row that breaks down or has no perplexity is kept with its `error`; a peer that does not run is said and left out.
    """
    known: dict[Question, dict[str, Any]] = {}
    for number, question in enumerate(questions, 1):
        found = None if question.method in again else file.find(question.asked())
        if found is None:
            try:
                found = measure(question)
            except (CalibrationError, EvaluationError) as error:
                found = {"error": str(error)}
            except PeerError as error:
                print(f"{question.label} is left out: {error}", file=sys.stderr, flush=True)
                continue
            file.add(question.asked(), found)
        known[question] = found
        shown = json.dumps({key: value for key, value in found.items() if key != "segment_losses"})
        print(f"{number}/{len(questions)} {question.label} {shown}", flush=True)
    _check_text(known)
    return known


def _check_text(known: Mapping[Question, Mapping[str, Any]]) -> None:
    """Rows are compared segment by segment: those of one model must have read the same ones."""
    first: dict[str, tuple[Question, str | None]] = {}
    for question, found in known.items():
        if "error" in found:
            continue
        text = found.get("text_sha256")
        other, expected = first.setdefault(question.model, (question, text))
        if text != expected:
            raise DifferentTextError(
                f"{question.label} and {other.label} were evaluated on different text: the data or the tokenizer "
                "changed between them. Measure the older ones --again."
            )
