"""The cost of a quantized embedding and LM head: KL to full precision, with everything else unchanged."""

from torch import Tensor

from abq_core.evaluation.perplexity import Scores, evaluate
from abq_core.inference.tables import with_quantized_tables
from abq_core.mix import ModelPrecision
from abq_core.models.loading import LoadedModel


def table_cost(base: LoadedModel, precision: ModelPrecision, ids: Tensor, unscored: int = 0) -> Scores:
    """Score `base` with the embedding and LM head of `precision`, and full-precision blocks, on ids (segments, tokens).

    unscored: as for `evaluate`. Raises EvaluationError, PrecisionError.
    """
    return evaluate(with_quantized_tables(base, precision), base, ids, unscored=unscored)
