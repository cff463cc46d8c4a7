"""What can be checked about a calibration's model and text before it is queued, without loading the model."""

from abq_core.models.building import checked_files
from abq_core.models.checks.weight_values import check_values
from abq_core.models.files import check_weights, tokenizer_ids, weight_files
from abq_core.models.loading import check_complete, check_vocabulary
from abq_core.models.reference import local_folder
from abq_core.models.shape import ModelShape
from abq_core.models.tokenizer import load_tokenizer, longest_text
from abq_core.spec import CalibrationSpec
from abq_core.text.errors import DataError
from abq_core.text.hub_texts import HUB_TEXTS
from abq_core.text.segments import SHORTEST_EVALUATION, check_tokens


def check_model(shape: ModelShape) -> None:
    """Check the weights and the tokenizer of a local model. A hub model is checked when a job has downloaded it.

    Raises ModelError.
    """
    folder = local_folder(shape.ref)
    if folder is None:
        return
    check_complete(shape.ref, shape.parameters, check_weights(folder))
    check_vocabulary(shape.ref, tokenizer_ids(folder), shape.vocabulary)
    check_values(weight_files(folder))


def check_seq_len(spec: CalibrationSpec, shape: ModelShape) -> None:
    """Refuse segments that are longer than the model's context. Raises DataError."""
    folder = local_folder(spec.model)
    longest = shape.context if folder is None else min(shape.context, longest_text(folder))
    if spec.seq_len > longest:
        raise DataError(
            f"Segments of {spec.seq_len:,} tokens are longer than the context of '{spec.model}', {longest:,} tokens. "
            f"Use at most {longest} tokens per segment (--seq-len)."
        )


def check_text(spec: CalibrationSpec) -> None:
    """Check that the text has enough tokens to calibrate and to evaluate.

    The data sets of the hub have millions of tokens; they are not read here. Raises DataError, ShortTextError.
    """
    folder = local_folder(spec.model)
    if folder is None or spec.data.partition("@")[0] in HUB_TEXTS:
        return
    with checked_files(spec.model, folder, weights=False) as links:
        tokenizer = load_tokenizer(links)
    check_tokens(spec.data, tokenizer, spec.segments, spec.seq_len, "calibration")
    check_tokens(spec.data, tokenizer, *SHORTEST_EVALUATION, "evaluation")
