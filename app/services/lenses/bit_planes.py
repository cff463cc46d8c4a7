"""Bit planes of one linear, and a dot product with a real token."""

from typing import TYPE_CHECKING, NamedTuple

from app.services.errors import ServiceError
from app.services.lenses.inputs import LensInputs
from app.services.lenses.linears import linear_weight
from app.services.models import ModelService
from app.services.registry import ModelRegistry

if TYPE_CHECKING:
    from abq_core.analysis.bit_planes import BitPlanes


class Place(NamedTuple):
    """A place in a model: a linear of a block, the first row and column of a tile, and a token of the text."""

    block: int
    tensor: str
    row: int = 0
    column: int = 0
    token: int = 0


class BitPlaneService:
    """Reads one linear of a model plane by plane."""

    def __init__(self, registry: ModelRegistry, models: ModelService, inputs: LensInputs) -> None:
        self._registry, self._models, self._inputs = registry, models, inputs

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
        rows = self._inputs.of_block(ref, place.block).rows.get(place.tensor)
        token = None if rows is None or not len(rows) else rows[min(max(place.token, 0), len(rows) - 1)]
        return bit_planes(weight, at, max(place.row, 0), max(place.column, 0), token)
