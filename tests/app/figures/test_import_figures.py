"""Figures of an import: the lens "imported" next to full precision, in one colour everywhere."""

import numpy as np
import pandas as pd
import pytest

from abq_core.analysis.attention_heads import attention_heads
from app.figures.attention import attention_figure
from app.figures.attention_heads import heads_figure
from app.figures.blocks import blocks_figure
from app.figures.histograms import level_figure, paired_figure
from app.figures.palette import LENSES, lens_colour
from app.figures.pareto import pareto_figure
from app.figures.run_lenses import lens_of
from app.figures.signal import signal_figure

LENS = "imported"


def test_the_lens_has_a_colour_a_dash_and_a_marker_of_its_own() -> None:
    lens = LENSES[LENS]
    others = [other for name, other in LENSES.items() if name != LENS]
    assert lens_of("imported") == LENS
    for name in ("light", "dark", "marker", "word"):
        assert getattr(lens, name) not in {getattr(other, name) for other in others}


def test_it_stands_on_the_pareto_figure_with_its_name() -> None:
    runs = pd.DataFrame(
        {
            "run": ["r-1", ""],
            "precision": ["<b>Q4_K_M</b>", "FP16"],
            "method": ["imported", "none"],
            "perplexity": [10.0, 9.5],
            "perplexity_stderr": [0.1, 0.1],
            "weight_bytes": [60 << 20, 200 << 20],
            "model_bytes": [90 << 20, 260 << 20],
            "same_top": [0.9, 1.0],
        }
    )
    trace = next(trace for trace in pareto_figure(runs).data if trace.name == "imported")
    assert trace.text == ("&lt;b&gt;Q4_K_M&lt;/b&gt;",) and list(trace.x) == [90.0]
    assert (trace.marker.symbol, trace.marker.color) == ("cross", lens_colour(LENS, dark=False))


def test_levels_and_histograms_are_drawn_in_its_colour() -> None:
    levels = pd.DataFrame({"block": 0, "tensor": "q", "lens": LENS, "level": [0, 1, 2, 3], "count": [1, 4, 4, 1]})
    figure = level_figure(levels, 0, "q")
    assert list(figure.data[0].y) == [10, 40, 40, 10] and "group's own scale" in figure.layout.xaxis.title.text
    rows = {"block": 0, "tensor": "q", "kind": "weight", "left": [0.0, 1.0], "right": [1.0, 2.0], "count": [3, 4]}
    histograms = pd.concat([pd.DataFrame({**rows, "lens": lens}) for lens in ("full", LENS)])
    paired = paired_figure(histograms, 0, "q", "weight")
    assert [trace.name for trace in paired.data] == ["Full", "Imported"]
    assert paired.data[1].line.color == lens_colour(LENS, dark=False)


def test_blocks_and_signal_have_one_line_and_one_map() -> None:
    blocks = pd.DataFrame(
        {"block": [0, 1], "lens": LENS, "cosine": [1.0, 0.9], "kl_attention": [0.1, 0.2], "snr_db": [30.0, 20.0]}
    )
    assert [trace.name for trace in blocks_figure(blocks).data] == ["Imported"] * 3
    linears = pd.DataFrame({"block": [0, 1], "tensor": "q", "lens": LENS, "weight_snr_db": [20.0, 21.0]})
    assert signal_figure(linears, lens=LENS).data[0].z.tolist() == [[20.0, 21.0]]


@pytest.mark.parametrize("against", ["corrected", LENS])
def test_attention_is_compared_with_full_precision(against: str) -> None:
    attention = pd.DataFrame(
        {"block": 0, "head": 0, "query": [0, 1, 1], "key": [0, 0, 1], "full": [1, 0.5, 0.5], LENS: [1, 0.25, 0.75]}
    )
    tokens = pd.DataFrame({"position": [0, 1], "text": ["a", "b"]})
    heads = attention_heads(attention)
    figure = attention_figure(attention, tokens, heads, (0, 0), against=against)
    titles = [annotation.text for annotation in figure.layout.annotations]
    words = ["Full, entropy 0.35 nats, sink 50 %", "Imported, KL 0.072, entropy 0.28 nats, sink 25 %"]
    assert titles == [*words, "Imported - Full, ±0.25"]
    overview = heads_figure(attention, heads, 0, 0, lens=against)
    assert [trace.name for trace in overview.data if trace.name] == ["Full", "Imported"]
    assert len(figure.data) == 3
    np.testing.assert_allclose(figure.data[2].z, [[0, np.nan], [-0.25, 0.25]])
