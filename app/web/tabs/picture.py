"""The picture of a tab: a plotly figure with caption and CSV link, drawn by app/web/assets/page.js."""

import json
from html import escape

import gradio as gr
import plotly.graph_objects as go

from app.web.tabs.script import PAGE_SCRIPT

TEMPLATE = (
    '<figure class="abq-picture"><div class="abq-plot" role="img"></div><figcaption><span class="abq-caption"></span>'
    '<a class="abq-csv" download hidden>CSV</a></figcaption></figure>'
)


def build_picture(elem_id: str) -> gr.HTML:
    """A place for what `framed` returns. The page draws it with Plotly.react, so that an update keeps the zoom."""
    return gr.HTML(
        "", html_template=TEMPLATE, head=PAGE_SCRIPT, js_on_load="window.abq.picture(element, props, watch)",
        apply_default_css=False, elem_id=elem_id,
    )  # fmt: skip


def framed(figure: go.Figure, caption: str, csv: str | None = None, name: str = "figure", grows: float = 0.0) -> str:
    """A figure with a caption that says what to look at, and the address of the numbers behind it.

    grows: pixels of height for each pixel of width beyond 900, for figures whose panels keep their shape.
    """
    frame = {"caption": escape(caption), "csv": csv, "name": f"abq-{name}", "grows": grows}
    return json.dumps(frame)[:-1] + ', "figure": ' + str(figure.to_json()) + "}"
