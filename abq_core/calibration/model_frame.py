"""A model without its blocks: what is before the first one and after the last one."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.models.architectures import blocks_of


class ModelFrame:
    """Runs the modules around a model's blocks, so that the blocks can run one by one outside of it.

    It shares the parameters of the model, which is not changed.
    """

    def __init__(self, model: Any) -> None:
        """model: a transformers model. Its first block runs for one token, which shows the form of its result."""
        originals = blocks_of(model)
        self._passages = [_Passage() for _ in originals]
        memo: dict[int, Any] = {id(part): part for part in (*model.parameters(), *model.buffers())}
        memo |= {id(block): passage for block, passage in zip(originals, self._passages, strict=True)}
        self._model = copy.deepcopy(model, memo)
        self._learn_form(originals[0])

    @torch.no_grad()
    def enter(self, ids: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """The hidden states before the first block, (segments, tokens, hidden), and each block's keyword arguments.

        ids: (segments, tokens). The arguments (mask, position embeddings) are the same for all ids of this shape. They
        have no cache: with one, a second call would attend to the keys of the first.
        """
        self._run(ids)
        hidden = self._passages[0].hidden
        assert hidden is not None
        return hidden, [passage.arguments | {"use_cache": False, "past_key_values": None} for passage in self._passages]

    @torch.no_grad()
    def leave(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """The last hidden states of a model whose last block returns `hidden`, (segments, tokens, hidden)."""
        last = self._passages[-1]
        last.replacement = hidden
        try:
            return self._run(ids)
        finally:
            last.replacement = None

    def _run(self, ids: Tensor) -> Tensor:
        output = self._model.base_model(input_ids=ids.to(self._model.device), use_cache=False)
        last: Tensor = output.last_hidden_state
        return last

    @torch.no_grad()
    def _learn_form(self, first: nn.Module) -> None:
        """Run the first block for one token, so that all passages return what blocks return."""
        blocks = blocks_of(self._model)
        blocks[0] = _Probe(first)
        try:
            self._run(torch.zeros(1, 1, dtype=torch.int64))
        except _ProbedError as found:
            rest = found.result[1:] if isinstance(found.result, tuple) else None
        blocks[0] = self._passages[0]
        for passage in self._passages:
            passage.rest = rest


class _Passage(nn.Module):
    """Stands in for a block: records its arguments, and returns its input or `replacement`.

    rest: what the block returns besides the hidden states; None if it returns a tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rest: tuple[Any, ...] | None = None
        self.hidden: Tensor | None = None
        self.replacement: Tensor | None = None
        self.arguments: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, *_: Any, **arguments: Any) -> Any:
        """The input, in the form of the block's result."""
        self.hidden, self.arguments = hidden_states, arguments
        output = hidden_states if self.replacement is None else self.replacement
        return output if self.rest is None else (output, *self.rest)


class _Probe(nn.Module):
    """Ends the model's forward with the result of a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise _ProbedError(self._block(*args, **kwargs))


class _ProbedError(Exception):
    """Carries the result of a block."""

    def __init__(self, result: Any) -> None:
        super().__init__("The first block ran.")
        self.result = result
