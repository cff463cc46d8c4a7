"""Inputs of a block's linears for real tokens, which several lenses show."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from abq_core.text.sources import BUILTIN_TEXT
from app.measured import Measured
from app.services.registry import ModelRegistry

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 16  # of held-out built-in text
MAX_INPUTS = 8  # blocks whose inputs stay in memory


@dataclass(frozen=True)
class LensInput:
    """The inputs of a block's linears. tokens: the text of each token.  rows: linear -> (tokens, channels)."""

    tokens: tuple[str, ...]
    rows: "dict[str, Tensor]"


class LensInputs:
    """Reads the inputs of a model's blocks at full precision."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._inputs: Measured[tuple[str, int], LensInput] = Measured(MAX_INPUTS)

    def of_block(self, ref: str, block: int) -> LensInput:
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
