"""The tokenizer of a model folder, as its files say."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_SETTINGS = "tokenizer_config.json"
_WHOLE = "tokenizer.json"
_WRAPPERS = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast"})


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a checked folder's tokenizer.

    One whose class only wraps tokenizer.json is taken from that file alone: transformers goes by the model's family
    instead, and gives a Qwen2 with a tokenizer of its own Qwen's way of splitting words, and so other tokens than those
    that the model was trained on.
    """
    settings = folder / _SETTINGS
    declared = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    loader = PreTrainedTokenizerFast if declared in _WRAPPERS and (folder / _WHOLE).is_file() else AutoTokenizer
    return loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
