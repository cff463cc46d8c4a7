"""Every figure, drawn from the data of a small run: traces, units, colours and escaping."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from abq_core.analysis.attention_heads import attention_heads
from abq_core.analysis.bit_planes import BitPlanes
from app.figures.attention import attention_figure
from app.figures.attention_heads import heads_figure
from app.figures.base import empty_figure
from app.figures.blocks import balance_figure, blocks_figure, clipping_figure
from app.figures.decode_profile import decode_profile_figure
from app.figures.document_strip import LINE, document_figure
from app.figures.histograms import level_figure, paired_figure, weight_figure
from app.figures.kl_buckets import kl_buckets_figure
from app.figures.lenses.bit_planes import bit_planes_figure
from app.figures.lenses.level_sets import level_sets_figure
from app.figures.lenses.transform import transform_figure
from app.figures.losses import loss_figure
from app.figures.palette import DARK, LENSES, LIGHT, lens_colour, palette
from app.figures.pareto import front, pareto_figure
from app.figures.signal import outlier_figure, signal_figure
from app.figures.throughput import decode_figure, roofline_figure, speedup_figure
from app.services import Services
from app.services.lenses.bit_planes import Place
from storage.jobs import Job

Q = "self_attn.q_proj"
HOSTILE = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Frames:
    """The diagnostics of one run and of one exploration."""

    run: dict[str, pd.DataFrame]
    explored: dict[str, pd.DataFrame]
    losses: pd.DataFrame
    runs: pd.DataFrame
    heads: pd.DataFrame
    planes: BitPlanes
    sets: dict[str, pd.DataFrame]
    mixed: dict[str, pd.DataFrame]


@pytest.fixture(scope="session")
def frames(finished: tuple[Services, Job]) -> Frames:
    services, job = finished
    names = (
        "histograms",
        "levels",
        "blocks",
        "linears",
        "outliers",
        "balance",
        "clipping",
        "attention",
        "attention_tokens",
    )
    run = {name: services.runs.diagnostics(job.run_id, name) for name in names}
    explored = services.models.explore(str(job.spec["model"]), "W2*A8")
    model = str(job.spec["model"])
    planes = services.lenses.bit_planes.read(model, "W4A8", Place(1, "mlp.down_proj", 3, 5, 2))
    sets = services.lenses.level_sets.compare(model, "W4A8g32", 1, "mlp.down_proj", "-1 0 1 4")
    return Frames(
        run,
        explored,
        services.jobs.losses(job.id),
        services.runs.frame(),
        attention_heads(run["attention"]),
        planes,
        sets,
        services.lenses.transform.compare(model, "W4A4", 1, "mlp.down_proj", 16),
    )


def kernel_rows() -> pd.DataFrame:
    speedup = {"torch-fp32": 12.0, "torch-bf16": 10.0, "torch-int8": 0.8}
    case = {
        "engine": "abq",
        "n": 4096,
        "k": 4096,
        "path": HOSTILE,
        "iqr_us": 3.0,
        "cold_us": 400.0,
        "exact": True,
        "threads": 1,
    }
    sizes = {"packed_bytes": 6 << 20, "bytes_moved": 7 << 20, "read_gb_per_second": 18.0}
    return pd.DataFrame(
        [
            {**case, **sizes, "precision": "W2*A8", "m": 1, "median_us": 200.0, "speedup": speedup},
            {**case, **sizes, "precision": "W4A4", "m": 8, "median_us": 900.0, "speedup": {"torch-bf16": 3.0}},
        ]
    )


def profile(kind: str = "linears") -> dict[str, object]:
    """A step of 10 ms: 5 ms for 40 MB of linears, 5 ms for the rest; 20 GB/s."""
    parts = [
        {"kind": kind, "seconds": 0.005, "nbytes": 40_000_000},
        {"kind": "Python and the rest", "seconds": 0.005, "nbytes": 0},
    ]
    return {"column": "W4A8", "seconds": 0.01, "positions": 12, "read_gb_per_second": 20.0, "parts": parts}


def document_rows() -> pd.DataFrame:
    return pd.DataFrame({"position": np.arange(200), "kl": np.linspace(0, 2, 200)})


def decode_rows() -> pd.DataFrame:
    rows = [("fp32", 40.0, 18 << 20), ("W2A8", 90.0, 2 << 20), ("r-0123456789", 80.0, 3 << 20)]
    return pd.DataFrame(rows, columns=["column", "tokens_per_second", "weight_bytes"])


DRAWN: dict[str, Callable[[Frames, bool], go.Figure]] = {
    "weights": lambda f, dark: weight_figure(f.explored["histograms"], f.explored["levels"], 0, Q, dark, "balanced"),
    "levels": lambda f, dark: level_figure(f.explored["levels"], 1, Q, dark),
    "signal": lambda f, dark: signal_figure(f.explored["linears"], dark),
    "signal of a run": lambda f, dark: signal_figure(f.run["linears"], dark, lens="corrected"),
    "outliers": lambda f, dark: outlier_figure(f.explored["outliers"], 0, Q, dark),
    "paired weights": lambda f, dark: paired_figure(f.run["histograms"], 0, Q, "weight", dark),
    "paired activations": lambda f, dark: paired_figure(f.run["histograms"], 1, Q, "activation", dark),
    "paired outputs": lambda f, dark: paired_figure(f.run["histograms"], 1, "block", "output", dark),
    "attention": lambda f, dark: attention_figure(f.run["attention"], f.run["attention_tokens"], f.heads, (0, 1), dark),
    "attention heads": lambda f, dark: heads_figure(f.run["attention"], f.heads, 1, 2, dark, "rounded"),
    "blocks": lambda f, dark: blocks_figure(f.run["blocks"], dark),
    "balance": lambda f, dark: balance_figure(f.run["balance"], 0, str(f.run["balance"]["pair"].iloc[0]), dark),
    "clipping": lambda f, dark: clipping_figure(f.run["clipping"], 0, Q, dark),
    "losses": lambda f, dark: loss_figure(f.losses, 2, dark),
    "speed-up": lambda f, dark: speedup_figure(kernel_rows(), dark),
    "roofline": lambda f, dark: roofline_figure(kernel_rows(), dark),
    "decode": lambda f, dark: decode_figure(decode_rows(), dark),
    "decode profile": lambda f, dark: decode_profile_figure(profile(), dark),
    "bit planes": lambda f, dark: bit_planes_figure(f.planes, dark),
    "level sets": lambda f, dark: level_sets_figure(f.sets["formats"], f.sets["occupancy"], "own levels", dark),
    "transform": lambda f, dark: transform_figure(
        f.mixed["rows"], f.mixed["channels"], f.mixed["levels"], (HOSTILE,) * 16, dark
    ),
    "document": lambda f, dark: document_figure(
        {"W2A8": document_rows(), "W4A8": document_rows()}, {"W2A8": HOSTILE, "W4A8": "W4A8"}, [HOSTILE] * 200, dark
    ),
    "pareto": lambda f, dark: pareto_figure(f.runs, dark),
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_has_data_units_and_the_background_of_the_page(frames: Frames, name: str, dark: bool) -> None:
    figure = DRAWN[name](frames, dark)
    assert figure.data, figure.layout.annotations
    assert figure.layout.paper_bgcolor == palette(dark).background
    assert figure.layout.uirevision
    titles = [axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()]]
    assert any(titles)
    hovers = [trace for trace in figure.data if trace.hoverinfo != "skip"]
    assert all("<extra></extra>" in trace.hovertemplate for trace in hovers)
    assert len(figure.to_json()) < 400_000


@pytest.mark.parametrize("name", ["weights", "paired weights", "paired activations", "paired outputs"])
def test_distributions_have_256_bins_at_most_and_one_range(frames: Frames, name: str) -> None:
    figure = DRAWN[name](frames, False)
    outlines = [trace for trace in figure.data if trace.type == "scatter"]
    assert len(outlines) >= 2
    assert all(len(trace.x) <= 256 for trace in outlines)
    assert len({(trace.x[0], trace.x[-1]) for trace in outlines}) == 1
    logarithmic = [axis for axis in figure.select_yaxes() if axis.type == "log" or axis.matches]
    assert len(logarithmic) >= 1


def test_a_lens_has_its_colour_in_every_figure(frames: Frames) -> None:
    for dark in (False, True):
        for name in ("weights", "paired weights", "blocks"):
            for trace in DRAWN[name](frames, dark).data:
                lens = next(lens for lens, style in LENSES.items() if trace.name.startswith(style.word))
                colour = trace.line.color if trace.type == "scatter" else trace.marker.color
                assert colour == lens_colour(lens, dark)


def test_lenses_differ_in_more_than_colour() -> None:
    assert len({(lens.dash, lens.marker, lens.pattern) for lens in LENSES.values()}) == len(LENSES)


def test_colours_have_contrast_on_their_background() -> None:
    for dark, colours in ((False, LIGHT), (True, DARK)):
        assert contrast(colours.ink, colours.background) >= 7
        assert contrast(colours.muted, colours.background) >= 4.5
        assert all(contrast(lens.colour(dark), colours.background) >= 3 for lens in LENSES.values())


def test_attention_blanks_future_positions_and_shares_one_colour_bar(frames: Frames) -> None:
    figure = DRAWN["attention"](frames, False)
    assert len(figure.data) == 4
    for heatmap in figure.data:
        square = [[value is None or value != value for value in row] for row in heatmap.z]
        assert all(square[query][key] == (key > query) for query in range(len(square)) for key in range(len(square)))
    assert sum(bool(heatmap.coloraxis) for heatmap in figure.data) == 3
    assert figure.data[3].showscale is False
    assert figure.data[3].zmin == -figure.data[3].zmax


def test_the_front_holds_the_runs_that_no_run_beats() -> None:
    rows = [("a", 10, 30.0), ("b", 20, 20.0), ("worse than b", 25, 22.0), ("c", 40, 10.0), ("same size as c", 40, 11.0)]
    best = front(pd.DataFrame(rows, columns=["run", "weight_bytes", "perplexity"]))
    assert list(best["run"]) == ["a", "b", "c"]


def test_the_end_to_end_pass_follows_the_blocks() -> None:
    alone = [(block, epoch, term, 1.0) for block in (0, 1) for epoch in (1, 2) for term in ("dlc", "total")]
    together = [(2, part, term, 0.5) for part in range(1, 11) for term in ("kl", "blocks", "total")]
    columns = ["block", "epoch", "term", "value"]
    running, whole = (pd.DataFrame(rows, columns=columns) for rows in (alone, alone + together))
    before, after = loss_figure(running, 4), loss_figure(whole, 2)
    assert before.layout.xaxis.ticktext == ("0", "1", "2", "3") and after.layout.xaxis.ticktext == ("0", "1", "all")
    (total,) = (trace for trace in after.data if trace.name == "total")
    assert [round(x, 2) for x in total.x if x is not None][3:5] == [1.42, 1.66]  # epochs of a block fill its interval
    places = {place for place, _ in total.customdata if place}
    assert places == {"block 0, epoch", "block 1, epoch", "all blocks, part"}
    assert len(after.data) == 4


def test_a_profile_marks_the_time_that_reading_alone_would_take() -> None:
    measured, limit = decode_profile_figure(profile()).data
    assert list(measured.y) == ["Python and the rest", "linears"] and list(measured.x) == [5.0, 5.0]
    assert list(limit.y) == ["linears"] and list(limit.x) == [2.0]  # 40 MB at 20 GB/s


def test_without_data_a_figure_shows_a_sentence() -> None:
    nothing = pd.DataFrame()
    for figure in (blocks_figure(nothing), speedup_figure(nothing), decode_figure(nothing), pareto_figure(nothing)):
        assert not figure.data
        assert figure.layout.annotations[0].text.endswith(".")
    assert not loss_figure(nothing, 0).data
    assert not balance_figure(nothing, 0, "q").data


def test_the_pareto_front_compares_whole_models_if_all_runs_have_their_size() -> None:
    runs = pd.DataFrame(
        {
            "precision": ["W4A8", "W4A8h8"],
            "method": "rtn",
            "run": ["r-1", "r-2"],
            "weight_bytes": [4.0, 4.0],
            "model_bytes": [10.0, 7.0],
            "perplexity": [5.0, 5.1],
            "perplexity_stderr": 0.1,
            "same_top": 0.9,
        }
    )
    assert list(front(runs)["run"]) == ["r-2", "r-1"]
    assert pareto_figure(runs).layout.xaxis.title.text == "size of the model in MiB"
    older = runs.assign(model_bytes=[10.0, np.nan])  # evaluated by an earlier version
    assert list(front(older)["run"]) == ["r-1"]
    assert pareto_figure(older).layout.xaxis.title.text == "size of the linear layers in MiB"


def test_hostile_text_is_inert(frames: Frames) -> None:
    assert "&lt;script&gt;" in empty_figure(HOSTILE, False).layout.annotations[0].text
    runs = frames.runs.assign(precision=HOSTILE, method=HOSTILE, run=HOSTILE)
    tokens = frames.run["attention_tokens"].assign(text=HOSTILE)
    drawn = [
        pareto_figure(runs),
        attention_figure(frames.run["attention"], tokens, frames.heads, (0, 0)),
        roofline_figure(kernel_rows()),
        speedup_figure(kernel_rows()),
        decode_figure(decode_rows().assign(column=HOSTILE)),
        decode_profile_figure(profile(HOSTILE)),
        document_figure({"a": document_rows()}, {"a": HOSTILE}, [HOSTILE] * 200),
        transform_figure(frames.mixed["rows"], frames.mixed["channels"], frames.mixed["levels"], (HOSTILE,) * 16),
    ]
    for figure in drawn:
        assert HOSTILE not in json.dumps(json.loads(figure.to_json()))


def test_a_gpu_has_a_roof_per_kind_of_product() -> None:
    case = {"engine": "abq", "n": 4096, "k": 4096, "cold_us": 9.0, "bytes_moved": 5 << 20, "read_gb_per_second": 3e3}
    bits = {"path": "cuda-binary", "operations": 2 * 16 * 4096**2, "ceiling_gop_per_second": 3.2e6}
    bytes_ = {"path": "cuda-int8", "operations": 2 * 512 * 4096**2, "ceiling_gop_per_second": 9e5}
    rows = pd.DataFrame(
        [
            {**case, **bits, "precision": "W2A8", "m": 1},
            {**case, **bits, "precision": "W4A4", "m": 1},
            {**case, **bytes_, "precision": "W8A8", "m": 512},
            {**case, "path": "cuda-binary", "precision": "W2A4", "m": 1},  # an older timing
        ]
    )
    lines = {trace.name: trace for trace in roofline_figure(rows).data if trace.mode == "lines"}
    assert list(lines) == [
        "memory: 3,000.0 GB/s",
        "cuda-int8: 900,000 GOP/s",
        "cuda-binary, 16 binary products: 200,000 GOP/s",
    ]
    slope, _, binary = lines.values()
    assert slope.x[-1] == pytest.approx(300) and slope.y[-1] == pytest.approx(9e5)  # ends at the highest roof
    assert binary.x[0] == pytest.approx(2e5 / 3e3) and set(binary.y) == {2e5}


@pytest.mark.parametrize("broken", [{"read_gb_per_second": 0.0}, {"read_gb_per_second": None}, {"cold_us": 0.0}])
def test_timings_without_bandwidth_or_time_have_no_roofline(broken: dict[str, float | None]) -> None:
    figure = roofline_figure(kernel_rows().assign(**broken))
    assert not figure.data and "No kernel" in figure.layout.annotations[0].text


def test_a_ceiling_of_zero_is_ignored() -> None:
    figure = roofline_figure(kernel_rows().assign(operations=[0, 5], ceiling_gop_per_second=[9.0, 0.0]))
    assert [t.name.partition(":")[0] for t in figure.data if t.mode == "lines"] == ["memory", "best measured"]


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two #rrggbb colours."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_kl_by_confidence_has_one_bar_per_bucket_and_the_floor() -> None:
    buckets = pd.DataFrame(
        {
            "low": [0, 0.5, 0.9, 0.99],
            "high": [0.5, 0.9, 0.99, 1],
            "share": [0.4, 0.35, 0.25, 0.0],
            "kl_mean": [0.3, 0.2, 0.1, None],
        }
    )
    figure = kl_buckets_figure(buckets, 0.05)
    (bars,) = figure.data
    assert list(bars.x) == ["below 50 %", "50 to 90 %", "90 to 99 %"] and list(bars.y) == [0.3, 0.2, 0.1]
    assert list(bars.text) == ["40.0 % of tokens", "35.0 % of tokens", "25.0 % of tokens"]
    assert (figure.layout.shapes[0].y0, figure.layout.annotations[0].text) == (0.05, "floor:<br>bfloat16")
    assert not kl_buckets_figure(buckets).layout.shapes
    assert "evaluate the run again" in kl_buckets_figure(buckets.iloc[:0]).layout.annotations[0].text


def test_pictures_of_planes_show_the_bits_of_the_codes_and_the_counts_their_contribution(frames: Frames) -> None:
    lens = frames.planes
    figure = bit_planes_figure(lens)
    codes = lens.tile.pivot(index="row", columns="column", values="code").to_numpy()
    pictures = [np.asarray(trace.z) for trace in figure.data if trace.type == "heatmap"]
    assert np.array_equal(pictures[0], codes)
    assert np.array_equal(sum(pictures[1 + index].astype(int) << (3 - index) for index in range(4)), codes)
    assert np.array_equal(pictures[5], lens.tile.pivot(index="row", columns="column", values="full").astype("float32"))
    (bars,) = (trace for trace in figure.data if trace.type == "bar")
    assert list(bars.y) == list(lens.steps["snr_db"])
    assert lens.product is not None and int(pictures[-1].sum()) == lens.product.products


def test_formats_of_the_engine_are_filled_and_others_say_that_they_are_simulated(frames: Frames) -> None:
    figure = level_sets_figure(frames.sets["formats"], frames.sets["occupancy"], "NF4")
    named = {trace.name: trace for trace in figure.data if trace.type == "scatter" and trace.showlegend}
    fast = {"uniform", "half-step", "star"}
    assert set(named) == fast | {f"{name} (simulated only)" for name in ("FP4", "NF4", "BitMoD", "own")}
    assert all(trace.marker.symbol.endswith("-open") == (name not in fast) for name, trace in named.items())
    errors = frames.sets["formats"].query("format == 'NF4' and scale == 'least error'").iloc[0]
    assert (named["NF4 (simulated only)"].x[0], named["NF4 (simulated only)"].y[0]) == (errors.bits, errors.snr_db)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [sum(bar.y) for bar in bars] == pytest.approx([100, 100])


def test_small_maps_are_sorted_by_kl_and_select_their_head(frames: Frames) -> None:
    rows = frames.heads[frames.heads["block"].eq(1)].sort_values("kl_rounded", ascending=False)
    figure = heads_figure(frames.run["attention"], frames.heads, 1, 2, False, "rounded")
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [trace.meta["select"] for trace in maps] == [str(head) for head in rows["head"]]
    titles = [note.text for note in figure.layout.annotations if note.text.startswith("head")]
    assert titles[0] == f"head {rows['head'].iloc[0]}, KL {rows['kl_rounded'].iloc[0]:.2g}"
    attention = frames.run["attention"].query(f"block == 1 and head == {rows['head'].iloc[0]}")
    for one in attention.sample(20, random_state=0).itertuples():
        assert abs(maps[0].z[one.query][one.key] - 255 * one.rounded) <= 0.5
    entropies = {trace.name: list(trace.y) for trace in figure.data if trace.name in ("Full", "Rounded", "Corrected")}
    assert entropies == {LENSES[lens].word: list(rows[f"entropy_{lens}"]) for lens in ("full", "rounded", "corrected")}
    thick = [axis for axis in figure.select_xaxes() if axis.linewidth == 3]
    assert len(thick) == 1


def test_a_document_has_a_cell_per_token_in_lines_of_a_page() -> None:
    rows = document_rows().query("position > 0")
    tokens = [f"t{at} " for at in range(200)]
    figure = document_figure({"a": rows}, {"a": "W2A8"}, tokens)
    cells = figure.data[0].z.ravel()
    assert figure.data[0].z.shape == (2, LINE) and np.isnan(cells[0]) and np.isnan(cells[200:]).all()
    assert cells[1:200] == pytest.approx(rows["kl"].to_numpy(), rel=1e-6)
    assert figure.data[0].text[1, 3] == "token 131: t127 t128 t129 t130 <b>t131 </b>"
    assert "mean 1.005 nats" in figure.layout.annotations[0].text
