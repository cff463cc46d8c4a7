"""Load the tokenizer of a model folder."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_SETTINGS = "tokenizer_config.json"
_TOKENIZER = "tokenizer.json"
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
