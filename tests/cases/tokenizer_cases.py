"""Tokenizers that add tokens, and hostile ones: a copy of a model folder with another tokenizer.json."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def with_tokenizer(folder: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a model folder to `target` and change its tokenizer.json."""
    shutil.copytree(folder, target)
    content = json.loads((target / "tokenizer.json").read_text("utf-8"))
    change(content)
    (target / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    return target


def with_prefix(folder: Path, target: Path, prefix: Sequence[int], suffix: Sequence[int] = ()) -> Path:
    """Copy a model folder; its tokenizer then puts these tokens in front of a text, and these behind it."""

    def change(content: dict[str, Any]) -> None:
        names = {number: token for token, number in content["model"]["vocab"].items()}
        front, back = ([{"SpecialToken": {"id": names[n], "type_id": 0}} for n in ids] for ids in (prefix, suffix))
        used = {names[n]: {"id": names[n], "ids": [n], "tokens": [names[n]]} for n in (*prefix, *suffix)}
        text = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*front, text[0], *back],
            "pair": [*front, *text, *back],
            "special_tokens": used,
        }

    return with_tokenizer(folder, target, change)


def replace_step(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """A normalizer that replaces a pattern, {"String": text} or {"Regex": rule}."""
    return {"type": "Replace", "pattern": pattern, "content": content}


def chain(*steps: dict[str, Any]) -> dict[str, Any]:
    """Normalizers that run one after the other."""
    return {"type": "Sequence", "normalizers": list(steps)}


def special_token(number: int) -> dict[str, Any]:
    """An added token."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": f"<|extra {number}|>", "special": True, **flags}


def split_on(rule: str) -> dict[str, Any]:
    """A pre-tokenizer that splits at a regular expression."""
    return {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
