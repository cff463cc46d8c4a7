"""The Hadamard transform of one linear: inputs and weights before and after it, and its time on this machine."""

import threading
from typing import TYPE_CHECKING

import pandas
from cachetools import LRUCache, cached

from app.measured import Measured
from app.services.errors import ServiceError
from app.services.lenses.inputs import LensInputs
from app.services.lenses.linears import linear_weight
from app.services.models import ModelService
from app.services.registry import ModelRegistry

if TYPE_CHECKING:
    from torch import Tensor

    from abq_core.analysis.transform import TransformTime

MAX_COMPARED = 16  # compared linears that stay in memory
MAX_TIMES = 128
TIMED_TOKENS = (1, 64)  # decoding, and reading a prompt
Frames = dict[str, pandas.DataFrame]


class TransformService:
    """Compares block sizes of the transform."""

    def __init__(self, registry: ModelRegistry, models: ModelService, inputs: LensInputs) -> None:
        self._registry, self._models, self._inputs = registry, models, inputs
        self._times: Measured[tuple[str, str, int, str], list[TransformTime]] = Measured(MAX_TIMES)
        # Single flight: concurrent calls for the same linear wait for one computation.
        self._compare_once = cached(LRUCache(MAX_COMPARED), condition=threading.Condition())(self._compare)

    def compare(self, ref: str, precision: str, block: int, tensor: str, size: int = 0) -> Frames:
        """The frames of `transform_frames` of a linear, with the group size of `precision`.

        size: the block size whose channels and levels are included; the engine's if it does not fit this linear.
        Cached: do not modify them. Raises ModelError, PrecisionError, ServiceError.
        """
        group_size = self._models.precision(precision).of_linear(block, tensor).group_size
        return self._compare_once(ref, group_size, block, tensor, size)

    def time(self, ref: str, precision: str, block: int, tensor: str) -> "list[TransformTime]":
        """Time the transform against the product for TIMED_TOKENS tokens, once.

        Raises ModelError, PrecisionError, ServiceError.
        """
        from abq_core.analysis.transform import transform_times

        found = self.known_times(ref, precision, block, tensor)
        if not found:
            at = self._models.precision(precision).of_linear(block, tensor)
            if not at.quantizes_weights:
                raise ServiceError(
                    f"{precision} keeps the weights of {tensor} in 16 bits, so the engine does not multiply with them. "
                    "Choose fewer weight bits above."
                )
            weight = linear_weight(self._registry, ref, block, tensor)
            found = self._times[ref, precision, block, tensor] = transform_times(weight, at, TIMED_TOKENS)
        return found

    def known_times(self, ref: str, precision: str, block: int, tensor: str) -> "list[TransformTime]":
        """What `time` measured before; empty if it did not."""
        return self._times.get((ref, precision, block, tensor)) or []

    def _compare(self, ref: str, group_size: int | None, block: int, tensor: str, size: int) -> Frames:
        from abq_core.analysis.transform import block_sizes, transform_frames
        from kernels.formats.hadamard_block import block_of

        weight = linear_weight(self._registry, ref, block, tensor)
        channels = weight.shape[1]
        size = size if size in block_sizes(channels) else block_of(channels)
        return transform_frames(weight, self._input(ref, block, tensor), size, group_size)

    def _input(self, ref: str, block: int, tensor: str) -> "Tensor":
        """The tokens that a linear reads, (tokens, channels) float32."""
        rows = self._inputs.of_block(ref, block).rows
        if tensor not in rows or not len(rows[tensor]):
            raise ServiceError(
                f"{tensor[:80]!r} of block {block} reads none of the tokens, so it has no inputs to transform. Choose "
                "another linear layer."
            )
        return rows[tensor]
