"""Adapter from a LoadedModel to lm-eval's model interface.

Tokenizes as lm-eval's adapter for Hugging Face models does, so that scores are comparable. Imports lm-eval at module
level, so tasks.py imports this module only when tasks run.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from abq_core.evaluation.likelihood import log_likelihoods
from abq_core.evaluation.task_errors import TaskError
from abq_core.inference.generate import greedy_continuation
from abq_core.models.loading import LoadedModel
from abq_core.models.tokenizer import encode

_DEFAULT_NEW_TOKENS = 256


class TaskModel(TemplateLM):
    """lm-eval's view of a model of any engine.

    `on_step(done, total)` counts the requests of a batch, and may raise to stop.
    """

    def __init__(self, model: LoadedModel, on_step: Callable[[int, int], None] | None = None) -> None:
        super().__init__()
        self._model = model
        self._on_step = on_step
        self.tokenizer = model.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token, or `prefix_token_id` if the tokenizer has none."""
        token = self.tokenizer.eos_token_id
        return self.prefix_token_id if token is None else int(token)

    @property
    def prefix_token_id(self) -> int:
        """The token in front of a text without context.

        Beginning of text, otherwise end of text. Raises TaskError if the tokenizer has neither.
        """
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise TaskError(
            f"The tokenizer of '{self._model.ref}' has neither a beginning-of-text nor an end-of-text token, so texts "
            "without context cannot be scored. Use another model."
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; a beginning-of-text token that the text already has is not repeated."""
        start = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (start and string.startswith(start))
        return encode(self.tokenizer, [string], add_special_tokens)[0]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation in nats, and whether greedy decoding produces it."""
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def _loglikelihood_tokens(  # abstract in TemplateLM
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return log_likelihoods(self._model, [(context, target) for _, context, target in requests], self._on_step)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each whole text in nats, in windows of the model's context.

        Every token is scored once, but not those that the tokenizer puts in front of a text.
        """
        pairs, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self._model.context, context_len=1):
                pairs.append(make_disjoint_window(window))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, log_likelihoods(self._model, pairs, self._on_step), strict=True):
            totals[owner] += score
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """The greedy continuation of each context up to a stop string.

        At most half of the model's context long.
        """
        texts = []
        for number, request in enumerate(requests, start=1):
            context, settings = request.args
            if settings.get("do_sample"):
                raise TaskError("A task with do_sample: true cannot be run: only greedy decoding is reproducible.")
            until = settings.get("until") or []
            stops = [until] if isinstance(until, str) else [str(stop) for stop in until]
            requested = int(settings.get("max_gen_toks", _DEFAULT_NEW_TOKENS))
            new = max(1, min(requested, self._model.context // 2))
            ids = self.tok_encode(context)[-(self._model.context - new) :]
            texts.append(greedy_continuation(self._model, ids, new, stops))
            if self._on_step is not None:
                self._on_step(number, len(requests))
        return texts
