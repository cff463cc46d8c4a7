"""The figure of a tab with its caption and CSV link, drawn by app/web/assets/page.js."""

import base64
import json

import gradio as gr
import pandas as pd
import plotly.graph_objects as go
from markupsafe import escape

from app.web.html import render
from app.web.page.script import PAGE_SCRIPT


def build_picture(elem_id: str) -> gr.HTML:
    """A component that shows what `framed` returns.

    Plotly.react draws it, so that an update keeps the zoom. A click on a trace with `meta={"select": key}` sends a
    `select` event with the key.
    """
    select = "(key) => trigger('select', {index: 0, value: key})"
    return gr.HTML(
        "", html_template=str(render("picture.html")), head=PAGE_SCRIPT,
        js_on_load=f"window.abq.picture(element, props, watch, {select})", apply_default_css=False, elem_id=elem_id,
    )  # fmt: skip


def framed(
    figure: go.Figure, caption: str, csv: str | pd.DataFrame | None = None, name: str = "figure", grows: float = 0.0
) -> str:
    """JSON of a figure with a caption that says what to look at.

    csv: address of the data behind the figure, or the data itself, if it is small.  name: of the files that a visitor
    saves.  grows: pixels of height per pixel of width above 900, for figures whose panels keep their aspect ratio.
    """
    if isinstance(csv, pd.DataFrame):
        encoded = base64.b64encode(csv.to_csv(index=False).encode("utf-8")).decode("ascii")
        csv = f"data:text/csv;charset=utf-8;base64,{encoded}"
    frame = {"caption": str(escape(caption)), "csv": csv, "name": f"abq-{name}", "grows": grows}
    return json.dumps(frame)[:-1] + ', "figure": ' + str(figure.to_json()) + "}"
