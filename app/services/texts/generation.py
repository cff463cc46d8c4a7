"""Text generation in several columns at once, for comparing precisions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from app.services.registry import BUILTIN, ModelRegistry

if TYPE_CHECKING:
    from abq_core.inference.generate import Finished, Token
    from abq_core.inference.prompts import Prompt

CANDIDATES = 5  # of each token


class GenerationService:
    """Generates text with full-precision, rounded and calibrated models side by side."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def generate(
        self,
        columns: Sequence[str],
        prompt: "Prompt | Mapping[str, Prompt]",
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        model: str = BUILTIN,
        *,
        measured: bool = True,
        follow: bool = False,
    ) -> "Iterator[Token | Finished]":
        """Stream tokens of all columns in turn.

        A column is "full", a run id, or a precision (rounded to nearest).
        prompt: a text is continued, a conversation is answered; a mapping holds one for each column.
        model: the model of "full" and of precisions. Runs bring their own model, which must be equal in all columns.
        measured: compute the KL divergence of each token from full precision, and its CANDIDATES.
        follow: all columns read the text of the first one.
        Raises RunNotFoundError, MissingBlockError, PrecisionError, ModelError, ServiceError, PromptError,
        ChatTemplateError.
        """
        from abq_core.inference.generate import generate

        ref = self._registry.common_model(columns, model)
        loaded = {column: self._registry.column(column, ref) for column in columns}
        reference = self._registry.full(ref) if measured else None
        candidates = CANDIDATES if measured else 0
        return generate(
            loaded, reference, prompt, max_new_tokens, temperature, seed, follow=follow, candidates=candidates
        )
