"""A run read at fewer bit planes: what it predicts, what it writes, and how fast."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.quantized_block import rounded_artifact, stored_artifact
from abq_core.evaluation.perplexity import Scores, evaluate
from abq_core.inference.generate import Finished, generate
from abq_core.inference.prompts import Prompt
from abq_core.inference.runtime import model_of_artifacts, streamed_model_of_artifacts, weight_bytes
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.plane_reading import without_lowest_planes


@dataclass(frozen=True)
class PlaneRead:
    """A run read at `planes` bit planes.

    precision: with as many weight bits.  scores: of the run.  rounded: of the model rounded to nearest at `precision`.
    weight_bytes: of the blocks' linears.  text: the prompt's greedy continuation by the packed engine, at
    `tokens_per_second`.
    """

    planes: int
    precision: Precision
    scores: Scores
    rounded: Scores
    weight_bytes: int
    text: str
    tokens_per_second: float

    def to_dict(self) -> dict[str, object]:
        """The numbers and the text, ready for JSON."""
        scores = {
            name: getattr(self.scores, name) for name in ("perplexity", "perplexity_stderr", "kl_mean", "same_top")
        }
        return {
            "planes": self.planes,
            "precision": str(self.precision),
            **scores,
            "rounded_perplexity": self.rounded.perplexity,
            "rounded_kl_mean": self.rounded.kl_mean,
            "weight_bytes": self.weight_bytes,
            "text": self.text,
            "tokens_per_second": self.tokens_per_second,
        }


def plane_read(
    base: LoadedModel,
    precision: Precision,
    store: CheckpointStore,
    planes: int,
    ids: Tensor,
    unscored: int,
    prompt: Prompt,
    new_tokens: int,
) -> PlaneRead:
    """Read the run in `store` at one of `fewer_planes(precision)`, and score and continue with it.

    ids: (segments, tokens) to score.  unscored: as for `evaluate`.  Raises MissingBlockError, EvaluationError,
    GenerationError, PromptError.
    """
    read = replace(precision, weight_bits=planes)
    artifact_of = artifact_reader(store, precision.weight_bits - planes)
    scores = evaluate(streamed_model_of_artifacts(base, read, artifact_of), base, ids, unscored=unscored)
    nearest = streamed_model_of_artifacts(base, read, lambda index: rounded_artifact(base, index, read))
    rounded = evaluate(nearest, base, ids, unscored=unscored)
    packed = model_of_artifacts(base, read, "packed", artifact_of)
    pieces, rate = list[str](), 0.0
    for step in generate({"read": packed}, None, prompt, new_tokens):
        if isinstance(step, Finished):
            rate = step.tokens_per_second
        else:
            pieces.append(step.text)
    return PlaneRead(planes, read, scores, rounded, weight_bytes(packed), "".join(pieces), rate)


def artifact_reader(store: CheckpointStore, dropped: int) -> Callable[[int], BlockArtifact]:
    """What gives the artifact of a block, without the `dropped` lowest planes of its weights."""

    def artifact_of(index: int) -> BlockArtifact:
        artifact = stored_artifact(store, index)
        weights = {name: without_lowest_planes(weight, dropped) for name, weight in artifact.weights.items()}
        return replace(artifact, weights=weights)

    return artifact_of
