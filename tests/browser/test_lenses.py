"""The lenses: what Chromium draws, compared with a NumPy computation."""

import base64
import json
import re
import urllib.request
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page_calls import submit_rounding
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Locator, Page, expect
from scipy.linalg import hadamard

from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.quantizers import quantize_weight

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


@pytest.fixture(scope="module")
def builtin() -> LoadedModel:
    return load_model("builtin")


def traces(page: Page, picture: str) -> list[dict[str, Any]]:
    """The traces of a drawn figure, with their coordinates as arrays."""
    found = page.evaluate("(id) => JSON.stringify(document.querySelector(`#${id} .abq-plot`).data)", picture)
    return [{**trace, **{axis: values(trace.get(axis)) for axis in "xyz"}} for trace in json.loads(found)]


def values(sent: Any) -> Any:
    """An array as plotly sends it: a list, or bytes with their type and shape."""
    if not isinstance(sent, dict):
        return sent
    array = np.frombuffer(base64.b64decode(sent["bdata"]), np.dtype(sent["dtype"]))
    shape = [int(size) for size in str(sent.get("shape", len(array))).split(",")]
    return array.reshape(shape)


def choose(page: Page, tab: str, label: str) -> None:
    """Choose a figure and wait until it is drawn."""
    before = page.locator(f"#{tab}-figure").get_attribute("data-drawn")
    page.get_by_role("radio", name=label, exact=True).check()
    expect(page.locator(f"#{tab}-figure")).not_to_have_attribute("data-drawn", before or "0")


def box(element: Locator) -> dict[str, float]:
    """Where an element is on the page, in pixels."""
    element.scroll_into_view_if_needed()
    return element.evaluate("(one) => one.getBoundingClientRect().toJSON()")


def type_levels(page: Page, text: str) -> None:
    box = page.locator("#explore-own-levels input, #explore-own-levels textarea").first
    box.fill(text)
    box.press("Enter")


def test_bit_planes_of_the_page_are_those_of_the_weight(page: Page, address: str, builtin: LoadedModel) -> None:
    page.goto(f"{address}?precision=W4A8")
    expect(page.locator("#explore-figure .main-svg").first).to_be_visible()
    choose(page, "explore", "Bit planes")
    expect(page.locator("#explore-detail")).to_contain_text("the integer that the engine computes")
    weight = blocks_of(builtin.model)[0].self_attn.q_proj.weight.detach()
    codes = quantize_weight(weight, Precision.parse("W4A8")).codes[:32, :32].numpy()
    pictures = [trace["z"] for trace in traces(page, "explore-figure") if trace["type"] == "heatmap"]
    assert np.array_equal(pictures[0], codes)
    for plane, picture in zip((3, 2, 1, 0), pictures[1:5], strict=True):
        assert np.array_equal(picture, codes >> plane & 1)
    with page.expect_download() as download:
        page.locator("#explore-figure a", has_text="CSV").click()
    assert download.value.suggested_filename == "bit-planes.csv"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_level_sets_of_the_page_have_the_error_of_the_rounded_weight(
    page: Page, address: str, builtin: LoadedModel
) -> None:
    page.goto(f"{address}?precision=W2*A8")
    expect(page.locator("#explore-figure .main-svg").first).to_be_visible()
    choose(page, "explore", "Level sets")
    type_levels(page, "-1 0 1")
    expect(page.locator("#explore-detail")).to_contain_text("own levels")
    weight = blocks_of(builtin.model)[0].self_attn.q_proj.weight.detach().double().numpy()
    scale = np.abs(weight).max(1, keepdims=True)
    error = weight - np.clip(np.rint(weight / scale), -1, 1) * scale
    expected = 10 * np.log10((weight**2).sum() / (error**2).sum())
    (drawn,) = (
        trace for trace in traces(page, "explore-figure") if trace["name"] == "own (simulated only)"
        and trace["marker"]["size"] == 6
    )  # fmt: skip
    assert drawn["y"][0] == pytest.approx(expected, abs=1e-3)
    row = page.locator("#explore-detail tr", has_text="own levels")
    expect(row).to_contain_text(f"{expected:.1f} dB")
    type_levels(page, "one two")
    expect(page.locator("#explore-answer [role=alert]")).to_contain_text("'one' is not a level")
    type_levels(page, "")
    page.locator("#explore-measure-formats").click()
    expect(page.locator("#explore-answer")).to_contain_text("of the formats that the engine runs")
    expect(page.locator("#explore-detail tr", has_text="NF4")).to_contain_text("nats")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_transform_of_the_page_is_that_of_the_matrix(page: Page, address: str, builtin: LoadedModel) -> None:
    page.goto(f"{address}?precision=W4A4")
    expect(page.locator("#explore-figure .main-svg").first).to_be_visible()
    choose(page, "explore", "Hadamard transform")
    expect(page.locator("#explore-hadamard-block input")).to_have_value("256 (all channels)")
    weight = blocks_of(builtin.model)[0].self_attn.q_proj.weight.detach().double().numpy()
    mixed = weight @ hadamard(256) / 16
    peaks = [trace["y"] for trace in traces(page, "explore-figure") if "channel %{x}" in trace["hovertemplate"]]
    assert peaks[2] == pytest.approx(np.abs(weight).max(0), rel=1e-4)
    assert peaks[3] == pytest.approx(np.abs(mixed).max(0), rel=1e-4)
    medians = [trace["y"] for trace in traces(page, "explore-figure") if trace["hovertemplate"].startswith("median")]
    kurtosis = [np.median(((x.T - x.mean(1)) ** 4).mean(0) / x.var(1) ** 2) for x in (weight, mixed)]
    assert medians[2][[0, -1]] == pytest.approx(kurtosis, rel=1e-3)
    assert medians[3][[0, -1]] == pytest.approx([np.median(np.ptp(x, axis=1)) for x in (weight, mixed)], rel=1e-3)
    last = page.locator("#explore-detail tr", has=page.locator("td", has_text=re.compile("^256$")))
    expect(last).to_contain_text(f"{kurtosis[1]:.2f}")
    page.locator("#explore-measure-transform").click()
    expect(page.locator("#explore-answer")).to_contain_text("it adds")
    expect(last).to_contain_text("%")
    with page.expect_download() as download:
        page.locator("#explore-figure a", has_text="CSV").click()
    assert download.value.suggested_filename == "transform.csv"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_attention_heads_of_the_page_have_the_entropy_of_their_maps(page: Page, address: str) -> None:
    submit_rounding(address, "W4A4", 64)
    page.goto(f"{address}?precision=W4A4&tab=calibrate")
    expect(page.locator("#calibrate-queue tr[data-key]")).to_contain_text("succeeded", timeout=JOB_MS)
    page.goto(f"{address}?precision=W4A4&tab=distributions")
    expect(page.locator("#distributions-figure .main-svg").first).to_be_visible()
    for figure in ("Weights", "Activations", "Block outputs", "Levels", "Signal to noise"):
        choose(page, "distributions", figure)
        shown = page.locator("#distributions-answer, #distributions-figure").all_inner_texts()
        assert "orrected" not in " ".join(shown)
    choose(page, "distributions", "Attention maps")
    expect(page.locator("#distributions-heads .main-svg").first).to_be_visible()
    run = page.evaluate("new URLSearchParams(location.search).get('run')")
    with page.expect_download() as download:
        page.locator("#distributions-heads a", has_text="CSV").click()
    assert download.value.suggested_filename == f"attention_heads-{run}.csv"
    with urllib.request.urlopen(f"{address}abq/run/{run}/attention.csv") as response:
        attention = pd.read_csv(response)
    attention = attention[attention["block"].eq(0)]
    terms = attention["full"] * np.log(attention["full"].clip(lower=1e-30))
    by_query = terms.groupby([attention["head"], attention["query"]]).sum()
    entropy = -by_query.groupby("head").mean()
    (drawn,) = (trace for trace in traces(page, "distributions-heads") if trace.get("name") == "Full")
    assert dict(zip(map(int, drawn["x"]), drawn["y"], strict=True)) == pytest.approx(dict(entropy), rel=1e-4)

    panels = [box(panel) for panel in page.locator("#distributions-figure .nsewdrag").all()]
    assert "orrected" not in " ".join(page.locator("#distributions-answer, .abq-picture:visible").all_inner_texts())
    assert len(panels) == 3 and min(min(panel["width"], panel["height"]) for panel in panels) >= 420, panels
    second = box(page.locator("#distributions-heads .x2y2 .nsewdrag"))
    page.mouse.click(second["x"] + second["width"] / 2, second["y"] + second["height"] / 2)
    head = str(drawn["x"][1])
    expect(page.locator("#distributions-head input")).to_have_value(re.compile(f"head {head},"))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
