"""The cost of a format of the weights: perplexity and KL with simulated linears, with all else in full precision."""

from torch import Tensor

from abq_core.evaluation.perplexity import Scores, evaluate
from abq_core.inference.runtime import with_simulated_weights
from abq_core.models.loading import LoadedModel
from abq_core.quantization.level_sets import Format


def level_set_cost(base: LoadedModel, one: Format, group_size: int | None, ids: Tensor, unscored: int = 0) -> Scores:
    """Score `base` with the weights of its blocks' linears rounded to `one`, on ids (segments, tokens).

    Each group is scaled for the least squared error. unscored: as for `evaluate`. Raises EvaluationError.
    """
    model = with_simulated_weights(base, lambda weight: one.round(weight, group_size, search=True).values)
    return evaluate(model, base, ids, unscored=unscored)
