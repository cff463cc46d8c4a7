"""Labels of points cover neither each other nor the points."""

import pandas as pd

from app.figures.allocation import prediction_figure
from app.figures.labels import place_labels
from app.figures.pareto import pareto_figure


def test_a_label_alone_is_beside_its_point() -> None:
    assert place_labels(pd.Series([1.0]), pd.Series([2.0]), pd.Series(["W4A8"])) == [("W4A8", "middle right")]


def test_labels_of_near_points_get_different_places() -> None:
    labels = place_labels(pd.Series([0.0, 0.0, 1.0]), pd.Series([0.0, 0.02, 1.0]), pd.Series(["W4A8", "W4A4", "FP16"]))
    first, second, far = (one.place for one in labels)
    assert first != second and far == "middle right" and all(one.text for one in labels)


def test_a_label_without_room_is_left_out() -> None:
    crowd = pd.Series([0.0] * 12 + [1.0])
    labels = place_labels(crowd, crowd, pd.Series(["W2*A8h8"] * 13))
    shown = [one for one in labels[:12] if one.text]
    assert 0 < len(shown) < 12 and len({one.place for one in shown}) == len(shown) and labels[12].text


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
