"""Places for the labels of points, so that they cover neither each other nor the points."""

from typing import NamedTuple

import pandas as pd

WIDTH, HEIGHT = 620, 330  # pixels of a figure's plot area on a narrow desktop window
CHARACTER, LINE = 7.0, 14.0  # pixels of a label's text
MARKER = 7.0  # half of a marker
PLACES = ("middle right", "top right", "bottom right", "middle left", "top left", "bottom left")  # best first


class Label(NamedTuple):
    """A label as plotly takes it.  text: empty if there is no room for it."""

    text: str
    place: str


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "_Box") -> bool:
        """Whether the boxes have more than an edge in common."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.top <= other.bottom or other.top <= self.bottom)


def place_labels(x: pd.Series, y: pd.Series, texts: pd.Series) -> list[Label]:
    """Give each point's label the first place where it is free, or none.

    x, y: coordinates as the axes show them: logarithms on a logarithmic axis.
    """
    points = list(zip(_pixels(x, WIDTH), _pixels(y, HEIGHT), strict=True))
    taken = [_Box(left - MARKER, low - MARKER, left + MARKER, low + MARKER) for left, low in points]
    labels = []
    for (left, low), text in zip(points, texts, strict=True):
        boxes = {place: _box(left, low, len(text), place) for place in PLACES}
        free = [place for place, box in boxes.items() if not any(box.meets(other) for other in taken)]
        if free:
            taken.append(boxes[free[0]])
        labels.append(Label(text, free[0]) if free else Label("", PLACES[0]))
    return labels


def _pixels(values: pd.Series, size: int) -> pd.Series:
    low, high = values.min(), values.max()
    return (values - low) / ((high - low) or 1) * size


def _box(x: float, y: float, characters: int, place: str) -> _Box:
    height, side = place.split()
    left = x + MARKER if side == "right" else x - MARKER - CHARACTER * characters
    bottom = y + {"top": MARKER, "middle": -LINE / 2, "bottom": -MARKER - LINE}[height]
    return _Box(left, bottom, left + CHARACTER * characters, bottom + LINE)
