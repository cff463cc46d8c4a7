"""Places for the labels of points, so that they cover neither each other nor the points."""

from typing import NamedTuple

import pandas as pd

WIDTH, HEIGHT = 620, 330  # pixels of a figure's plot area on a narrow desktop window
CHARACTER, LINE = 7.0, 14.0  # pixels of a label's text
MARGIN = 0.08  # of an axis, on both sides of the points
PLACES = ("middle right", "top right", "bottom right", "middle left", "top left", "bottom left")  # best first
Range = tuple[float, float]


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

    def is_inside(self) -> bool:
        """Whether the box is inside the plot area, outside of which nothing is drawn."""
        return self.left >= 0 and self.bottom >= 0 and self.right <= WIDTH and self.top <= HEIGHT


def place_labels(points: pd.DataFrame, x_range: Range, y_range: Range) -> list[Label]:
    """Give each point's label the first place where it is free, or none.

    points: columns x, y, size (of the marker, in pixels) and text.  x, y and the ranges of the axes: as the axes show
    them, logarithms on a logarithmic axis.
    """
    x, y = _pixels(points["x"], x_range, WIDTH), _pixels(points["y"], y_range, HEIGHT)
    markers = [_Box(*corner) for corner in zip(*_around(x, y, _reach(points["size"] / 2)), strict=True)]
    taken = list(markers)
    labels = []
    for marker, text in zip(markers, points["text"], strict=True):
        boxes = {place: _box(marker, len(text), place) for place in PLACES}
        free = [
            place
            for place, box in boxes.items()
            if box.is_inside() and not any(box.meets(other) for other in taken if other is not marker)
        ]
        if free:
            taken.append(boxes[free[0]])
        labels.append(Label(text, free[0]) if free else Label("", PLACES[0]))
    return labels


def axis_range(low: pd.Series, high: pd.Series) -> Range:
    """The range of an axis around points that extend from `low` to `high`."""
    least, most = float(low.min()), float(high.max())
    margin = MARGIN * (most - least) or MARGIN * abs(most) or 1.0
    return least - margin, most + margin


def _reach(radius: pd.Series) -> pd.Series:
    """How far from a point plotly begins its label."""
    return radius / 0.8 + 1


def _pixels(values: pd.Series, axis: Range, size: int) -> pd.Series:
    low, high = axis
    return (values - low) / (high - low) * size


def _around(x: pd.Series, y: pd.Series, radius: pd.Series) -> tuple[pd.Series, ...]:
    return x - radius, y - radius, x + radius, y + radius


def _box(marker: _Box, characters: int, place: str) -> _Box:
    """Where plotly writes a label: beside the marker, and above or below its middle."""
    height, side = place.split()
    left = marker.right if side == "right" else marker.left - CHARACTER * characters
    middle = (marker.bottom + marker.top) / 2
    bottom = {"top": marker.top, "middle": middle - LINE / 2, "bottom": marker.bottom - LINE}[height]
    return _Box(left, bottom, left + CHARACTER * characters, bottom + LINE)
