"""Load the tokenizer of a model folder, encode and decode with it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from abq_core.models.errors import STOPS, ModelError

_SETTINGS = "tokenizer_config.json"
_TOKENIZER = "tokenizer.json"
_UNLIMITED = 1 << 62
_SAMPLE = "x"  # a text that every tokenizer can read
_WRAPPERS = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast"})


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a checked folder's tokenizer.

    If the declared class only wraps tokenizer.json, the tokenizer is read from that file alone. AutoTokenizer would
    choose a class by the model's family instead: for a Qwen2 trained with another tokenizer it applies Qwen's
    pre-tokenization, and the model gets tokens that it was not trained on.
    """
    settings = folder / _SETTINGS
    declared = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    loader = PreTrainedTokenizerFast if declared in _WRAPPERS and (folder / _TOKENIZER).is_file() else AutoTokenizer
    return loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def longest_text(folder: Path) -> int:
    """The longest text in tokens that the settings of a checked folder's tokenizer name; 2^62 if they name none."""
    settings = folder / _SETTINGS
    named = json.loads(settings.read_text(encoding="utf-8")).get("model_max_length") if settings.is_file() else None
    return int(min(named, _UNLIMITED)) if isinstance(named, int | float) and named > 0 else _UNLIMITED


def encode(tokenizer: Any, texts: Sequence[str], special_tokens: bool) -> list[list[int]]:
    """The token ids of each text. special_tokens: add those that the tokenizer puts around a text.

    Raises ModelError if the tokenizer fails.
    """
    with _named_error(tokenizer):
        return list(tokenizer(list(texts), add_special_tokens=special_tokens, verbose=False)["input_ids"])


def text_prefix(tokenizer: Any) -> tuple[int, ...]:
    """The token ids that a tokenizer puts in front of a text, such as BOS; empty for one that adds none.

    Raises ModelError if the tokenizer fails.
    """
    plain, whole = (encode(tokenizer, [_SAMPLE], special_tokens)[0] for special_tokens in (False, True))
    starts = range(len(whole) - len(plain) + 1)
    return tuple(whole[: next((at for at in starts if whole[at : at + len(plain)] == plain), 0)])


def decode(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
    """Decode token ids verbatim, without cleaning up spaces.

    Raises ModelError if the tokenizer fails.
    """
    with _named_error(tokenizer):
        return str(tokenizer.decode(ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False))


@contextmanager
def _named_error(tokenizer: Any) -> Iterator[None]:
    """Raise any failure as a ModelError, also a panic of the tokenizers library, which is no Exception."""
    try:
        yield
    except (MemoryError, *STOPS):
        raise
    except BaseException as error:
        raise ModelError(
            f"The tokenizer of '{tokenizer.name_or_path}' cannot read this text ({type(error).__name__}). Use another "
            "text, or take the tokenizer from the model's original folder."
        ) from error
