"""A model that reads a text token by token, and keeps what it has read in a KV cache."""

import math

import torch
from torch import Tensor

from abq_core.inference.errors import GenerationError
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.models.loading import LoadedModel
from kernels.formats.activations import NotFiniteError


class Reader:
    """A model with a KV cache of `capacity` tokens."""

    def __init__(self, model: LoadedModel, capacity: int) -> None:
        self._model, self._decoder = model, model.decoder
        kv_bits = None if model.decoder is None else model.decoder.kv_bits
        self.cache = PreallocatedCache(model.model.config, capacity, kv_bits)

    @torch.inference_mode()
    def read(self, ids: list[int]) -> Tensor:
        """Append ids. Returns the logits after the last one, (vocabulary,) float32 on the CPU.

        Raises GenerationError if they are not finite.
        """
        try:
            logits = self._model.logits(self.hidden(ids)).cpu()
        except NotFiniteError as error:  # raised by the packed engine; the simulation returns NaN
            raise self._not_finite() from error
        return self.checked(logits)

    @torch.inference_mode()
    def hidden(self, ids: list[int]) -> Tensor:
        """Append ids. Returns the last hidden state of the last one, (hidden,)."""
        if self._decoder is None or self.cache.get_seq_length() == 0:
            return self._model.hidden(torch.tensor([ids]), self.cache)[0, -1]
        for token in ids:
            hidden = self._decoder.hidden(token, self.cache)
        return hidden

    def checked(self, logits: Tensor) -> Tensor:
        """The same logits. Raises GenerationError if they are not finite."""
        if not math.isfinite(sum(end.item() for end in logits.aminmax())):  # both are NaN if any logit is
            raise self._not_finite()
        return logits

    def _not_finite(self) -> GenerationError:
        return GenerationError(
            f"The {self._model.precision} model of '{self._model.ref}' computes logits that are not finite. Use more "
            "bits or another method."
        )


def most_likely(logits: Tensor) -> int:
    """The first of the largest logits. NumPy finds it in a tenth of torch's time."""
    return int(logits.numpy().argmax())
