"""The KL noise floor: full precision in bfloat16 against itself in float32."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from abq_core.evaluation.perplexity import evaluate
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.modules import converted_copy

_TOKENS = 4096  # enough for the size of a floor; bfloat16 is slow on CPUs without instructions for it


def kl_floor(
    full: LoadedModel, segments: Tensor, on_step: Callable[[int, int], None] | None = None, unscored: int = 0
) -> float:
    """Mean KL(float32 || bfloat16) of the full-precision model in nats per token: the noise of a 16-bit model.

    A quantized model at this distance cannot be told from the model in bfloat16. Of a text with more than
    4,096 tokens only the first segments are read. segments, on_step, unscored: as for `evaluate`.
    Raises EvaluationError.
    """
    measured = segments[: max(2, _TOKENS // segments.shape[1])]
    half = replace(full, model=converted_copy(full.model, full.model.device, torch.bfloat16), decoder=None)
    return evaluate(half, full, measured, on_step, unscored).kl_mean
