"""Labels of points cover neither each other nor the points."""

import pandas as pd

from app.figures.allocation import prediction_figure
from app.figures.labels import place_labels
from app.figures.pareto import pareto_figure

UNIT = (0.0, 1.0)


def points(*places: tuple[float, float], text: str = "W4A8", size: float = 11) -> pd.DataFrame:
    return pd.DataFrame(places, columns=["x", "y"]).assign(text=text, size=size)


def test_a_label_alone_is_beside_its_point() -> None:
    assert place_labels(points((0.5, 0.5)), UNIT, UNIT) == [("W4A8", "middle right")]


def test_a_label_stays_inside_the_figure() -> None:
    right, top, corner = place_labels(points((0.99, 0.5), (0.5, 0.999), (0.99, 0.001)), UNIT, UNIT)
    assert (right.place, top.place, corner.place) == ("middle left", "bottom right", "top left")


def test_labels_of_near_points_get_different_places() -> None:
    first, second, far = place_labels(points((0.1, 0.1), (0.1, 0.12), (0.9, 0.8)), UNIT, UNIT)
    assert first.place != second.place and far.place == "middle right" and first.text and second.text


def test_points_are_near_on_the_scale_of_the_axes() -> None:
    pair = points((0.1, 0.1), (0.101, 0.1))
    near, far = place_labels(pair, UNIT, UNIT), place_labels(pair, (0.1, 0.2), (0.0, 1.0))
    apart = place_labels(pair, (0.0995, 0.1015), (0.0, 1.0))
    assert near[0].place != near[1].place and far[0].place != far[1].place
    assert apart[0].place == apart[1].place == "middle right"


def test_a_large_marker_keeps_labels_away() -> None:
    pair = points((0.5, 0.5), (0.58, 0.5))
    assert place_labels(pair, UNIT, UNIT)[0].place == "middle right"
    assert place_labels(pair.assign(size=[11, 80]), UNIT, UNIT)[0].place != "middle right"


def test_a_label_without_room_is_left_out() -> None:
    labels = place_labels(points(*[(0.5, 0.5)] * 12, (0.9, 0.9), text="W2*A8"), UNIT, UNIT)
    shown = [one.place for one in labels[:12] if one.text]
    assert 0 < len(shown) < 12 and len(set(shown)) == len(shown) and labels[12].text


def test_predictions_far_below_the_measurements_are_labelled_apart() -> None:
    runs = pd.DataFrame(
        {"precision": "W4A8", "method": "rtn", "run": ["r-1", "r-2", "r-3"], "predicted_kl": [0.01, 0.0104, 0.02],
         "kl_mean": [0.2, 0.21, 0.3]}
    )  # fmt: skip
    (_, drawn) = prediction_figure(runs).data
    assert drawn.textposition[0] != drawn.textposition[1]


def test_runs_of_equal_size_keep_their_precision_in_the_hover_text() -> None:
    runs = pd.DataFrame(
        {"precision": "W4A8", "method": ["rtn", "abq"] * 6, "run": [f"r-{i}" for i in range(12)], "weight_bytes": 2**20,
         "perplexity": 20.0, "perplexity_stderr": 1.0, "same_top": 0.5}
    )  # fmt: skip
    drawn = [trace for trace in pareto_figure(runs).data if trace.customdata is not None]
    assert sum(len([text for text in trace.text if text]) for trace in drawn) < 12
    assert {row[3] for trace in drawn for row in trace.customdata} == {"W4A8"}
    predicted = runs.assign(predicted_kl=0.1, kl_mean=0.2)
    drawn = [trace for trace in prediction_figure(predicted).data if trace.customdata is not None]
    assert {tuple(row) for trace in drawn for row in trace.customdata} == {("W4A8", f"r-{i}") for i in range(12)}
