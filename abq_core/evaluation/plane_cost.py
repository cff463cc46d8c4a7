"""A run read at fewer bit planes: what it predicts, what it writes, and how fast."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.quantized_block import rounded_artifact, stored_artifact
from abq_core.evaluation.perplexity import Scores, evaluate
from abq_core.inference.generate import Finished, generate
from abq_core.inference.prompts import Prompt, starts
from abq_core.inference.runtime import model_of_artifacts, streamed_model_of_artifacts, weight_bytes
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.plane_reading import without_lowest_planes


@dataclass(frozen=True)
class PlaneScores:
    """A run read at `planes` bit planes, on a text.

    precision: the run's, with `planes` weight bits.  scores: of the run.  rounded: of the model rounded to nearest at
    `precision`.  weight_bytes: of the blocks' linears.
    """

    planes: int
    precision: Precision
    scores: Scores
    rounded: Scores
    weight_bytes: int


@dataclass(frozen=True)
class Continuation:
    """The greedy continuation of a prompt by the packed engine."""

    text: str
    tokens_per_second: float


def plane_scores(
    base: LoadedModel, precision: Precision, store: CheckpointStore, planes: int, ids: Tensor, unscored: int = 0
) -> PlaneScores:
    """Read the run in `store` at one of `fewer_planes(precision)`, and score it on ids (segments, tokens).

    unscored: as for `evaluate`. Raises MissingBlockError, EvaluationError.
    """
    read = replace(precision, weight_bits=planes)
    run = streamed_model_of_artifacts(base, read, artifact_reader(store, precision.weight_bits - planes))
    nearest = streamed_model_of_artifacts(base, read, lambda index: rounded_artifact(base, index, read))
    scores, rounded = (evaluate(model, base, ids, unscored=unscored) for model in (run, nearest))
    return PlaneScores(planes, read, scores, rounded, weight_bytes(run))


def plane_continuation(
    base: LoadedModel, precision: Precision, store: CheckpointStore, planes: int, prompt: Prompt, new_tokens: int
) -> Continuation:
    """Continue a prompt with the run in `store`, read at one of `fewer_planes(precision)`.

    Raises PromptError before the run is read; MissingBlockError, GenerationError.
    """
    starts({"": base}, prompt, new_tokens)
    read = replace(precision, weight_bits=planes)
    packed = model_of_artifacts(base, read, "packed", artifact_reader(store, precision.weight_bits - planes))
    pieces, rate = list[str](), 0.0
    for step in generate({"": packed}, None, prompt, new_tokens):
        if isinstance(step, Finished):
            rate = step.tokens_per_second
        else:
            pieces.append(step.text)
    return Continuation("".join(pieces), rate)


def artifact_reader(store: CheckpointStore, dropped: int) -> Callable[[int], BlockArtifact]:
    """A function that returns a block's artifact, without the `dropped` lowest planes of its weights."""

    def artifact_of(index: int) -> BlockArtifact:
        artifact = stored_artifact(store, index)
        weights = {name: without_lowest_planes(weight, dropped) for name, weight in artifact.weights.items()}
        return replace(artifact, weights=weights)

    return artifact_of
