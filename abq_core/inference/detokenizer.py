"""Incremental detokenization: turn a stream of token ids into a stream of text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from abq_core.models.tokenizer import decode

_CONTEXT_TOKENS = 6  # earlier tokens that decide how the next one is written, e.g. its leading space
_CHARACTER_BYTES = 4  # at most, in UTF-8; a byte token holds one


class Detokenizer:
    """Returns the text of each new token once all bytes of its characters have arrived.

    `tokenizers.decoders.DecodeStream` does not replace it (tokenizers 0.23): on byte-fallback tokenizers it raises
    "Invalid prefix encountered" when a model emits bytes that are not valid UTF-8, as models at 1 or 2 bits do, and it
    has no way to return an incomplete character at the end of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        """prompt: the ids that precede the stream. Their text is not returned."""
        self._tokenizer = tokenizer
        self._keep_context(list(prompt))

    def add(self, token: int, last: bool) -> str:
        """The text that `token` completes, possibly empty.

        last: also return incomplete characters, as U+FFFD.
        """
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith("\ufffd") and not last:
            return ""
        piece = text[self._emitted :]
        self._keep_context(self._ids)
        return piece

    def _keep_context(self, ids: list[int]) -> None:
        """Keep the last tokens, from the start of a character on.

        Byte tokens after half a character would not be decoded.
        """
        for count in range(_CONTEXT_TOKENS, _CONTEXT_TOKENS + _CHARACTER_BYTES):
            self._ids = ids[-count:]
            text = self._decode(self._ids)
            if not text.startswith("\ufffd"):
                break
        self._emitted = len(text)

    def _decode(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids, skip_special_tokens=True)
