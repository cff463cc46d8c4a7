"""Bit planes of one linear, and a dot product with a real token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cachetools import LRUCache

from abq_core.text.sources import BUILTIN_TEXT
from app.services.errors import ServiceError
from app.services.lenses.linears import linear_weight
from app.services.models import ModelService
from app.services.registry import ModelRegistry

if TYPE_CHECKING:
    from torch import Tensor

    from abq_core.analysis.bit_planes import BitPlanes

TOKENS = 16  # of held-out built-in text, whose inputs are multiplied
MAX_INPUTS = 8  # blocks whose inputs stay in memory


class Place(NamedTuple):
    """A place in a model: a linear of a block, the first row and column of a tile, and a token of the text."""

    block: int
    tensor: str
    row: int = 0
    column: int = 0
    token: int = 0


@dataclass(frozen=True)
class LensInput:
    """The inputs of a block's linears. tokens: the text of each token.  rows: linear -> (tokens, channels)."""

    tokens: tuple[str, ...]
    rows: "dict[str, Tensor]"


class BitPlaneService:
    """Reads one linear of a model plane by plane."""

    def __init__(self, registry: ModelRegistry, models: ModelService) -> None:
        self._registry, self._models = registry, models
        self._inputs: LRUCache[tuple[str, int], LensInput] = LRUCache(MAX_INPUTS)

    def read(self, ref: str, precision: str, place: Place) -> "BitPlanes":
        """The planes of the linear at `place`, rounded to nearest.

        The product is with the input of that token; None for an expert that read no token. Raises ModelError,
        PrecisionError, ServiceError.
        """
        from abq_core.analysis.bit_planes import bit_planes

        weight = linear_weight(self._registry, ref, place.block, place.tensor)
        at = self._models.precision(precision).of_linear(place.block, place.tensor)
        if not at.quantizes_weights:
            raise ServiceError(f"{precision} keeps the weights of {place.tensor} in 16 bits, so it has no bit planes.")
        rows = self.inputs(ref, place.block).rows.get(place.tensor)
        token = None if rows is None or not len(rows) else rows[min(max(place.token, 0), len(rows) - 1)]
        return bit_planes(weight, at, max(place.row, 0), max(place.column, 0), token)

    def inputs(self, ref: str, block: int) -> LensInput:
        """The inputs of a block's linears for TOKENS tokens. Raises ModelError, ServiceError."""
        from abq_core.analysis.token_inputs import token_inputs
        from abq_core.models.tokenizer import decode
        from abq_core.text.segments import segments

        base = self._registry.full(ref)
        found = self._inputs.get((base.ref, block))
        if found is None:
            ids = segments(BUILTIN_TEXT, base.tokenizer, 1, min(TOKENS, base.context), 0, "evaluation")
            texts = tuple(decode(base.tokenizer, [token]) for token in ids[0].tolist())
            found = self._inputs[base.ref, block] = LensInput(texts, token_inputs(base, ids, block))
        return found
