"""Notations typed into forms and options: lists, weight shapes, token counts."""

import re
from collections.abc import Iterable

_SHAPE = re.compile(r"\s*([1-9]\d{0,5})\s*[xX*,]\s*([1-9]\d{0,5})\s*")
_COUNT = re.compile(r"\s*[1-9]\d{0,5}\s*")
_SHOWN_CHARACTERS = 40  # of a text that cannot be parsed


class NotationError(ValueError):
    """A text that cannot be parsed; the message quotes it and shows a valid one."""


def parse_list(text: str) -> list[str]:
    """Items of a comma-separated list, stripped, without empty ones."""
    return [item.strip() for item in text.split(",") if item.strip()]


def parse_shapes(texts: Iterable[str]) -> list[tuple[int, int]]:
    """Weight shapes (outputs, inputs) from texts such as "4096x4096". Raises NotationError."""
    shapes = []
    for text in texts:
        match = _SHAPE.fullmatch(str(text))
        if match is None:
            raise NotationError(
                f"'{str(text)[:_SHOWN_CHARACTERS]}' is not a shape: write outputs x inputs, such as 4096x4096."
            )
        shapes.append((int(match[1]), int(match[2])))
    return shapes


def parse_token_counts(texts: Iterable[str]) -> list[int]:
    """Numbers of tokens per product (M) from texts such as "8". Raises NotationError."""
    counts = []
    for text in texts:
        if not _COUNT.fullmatch(str(text)):
            raise NotationError(
                f"'{str(text)[:_SHOWN_CHARACTERS]}' is not a number of tokens: write a whole number, such as 1 or 8."
            )
        counts.append(int(text))
    return counts
