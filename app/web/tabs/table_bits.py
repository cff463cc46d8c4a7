"""Bits of embedding and LM head, next to the precision: a choice, with its size and its measured cost in KL."""

from collections.abc import Iterator

import gradio as gr
from markupsafe import Markup

from abq_core.mix import ModelPrecision, PrecisionMix
from abq_core.precision import FULL_BITS
from app.formatting import bits, nats, percent
from app.services.models import COST_SEGMENTS, COST_SEQ_LEN, TABLE_BITS
from app.web import html
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.selection import Selection


def build_table_bits(page: Page, answer: gr.HTML) -> None:
    """Build the choice, a table of sizes and costs, and the button that measures the costs.

    answer: shows the sentence of an error.
    """
    choice = gr.Radio(
        [str(number) for number in TABLE_BITS], label="Bits of embedding and LM head", elem_id="explore-table-bits"
    )
    costs = gr.HTML("", elem_id="explore-table-costs", js_on_load=None)
    measure = gr.Button("Measure their cost in KL", size="sm", elem_id="explore-measure-tables")

    @callback(answer, tab="explore")
    def show(selection: Selection) -> Updates:
        precision = _precision(page, selection)
        chosen = str(precision.head_bits or FULL_BITS) if precision.head_bits == precision.embedding_bits else None
        is_mix = isinstance(precision, PrecisionMix)  # a mix with other bits has no stored name to select it by
        return {choice: gr.update(value=chosen, interactive=not is_mix), costs: _costs(page, selection, precision)}

    @callback(answer)
    def choose(selection: Selection, number: str) -> Updates:
        precision = _at(_precision(page, selection), int(number))
        return page.header.show_settled(
            Selection(selection.model, str(precision), tab=selection.tab, dark=selection.dark)
        )

    @callback(answer)
    def measure_costs(selection: Selection) -> Iterator[Updates]:
        precision = _precision(page, selection)
        for number in TABLE_BITS[1:]:
            page.services.models.table_cost(selection.model, _at(precision, number))
            yield {costs: _costs(page, selection, precision)}

    page.turn("explore")(show, page.selection, [choice, costs, answer], **FOLLOW)
    choice.input(choose, [page.selection, choice], [*page.header.outputs, answer], **PRIVATE)
    measure.click(measure_costs, page.selection, [costs, answer], **{**BUSY, "show_progress": "minimal"})


def _precision(page: Page, selection: Selection) -> ModelPrecision:
    models = page.services.models
    return models.resolved(selection.model, models.precision(selection.precision))


def _at(precision: ModelPrecision, number: int) -> ModelPrecision:
    """The precision with both tables at `number` bits."""
    tables = None if number == FULL_BITS else number
    return precision.with_tables(tables, tables)


def _costs(page: Page, selection: Selection, precision: ModelPrecision) -> Markup:
    """One row per choice: bits per parameter of the whole model, and the cost if it was measured."""
    models, rows = page.services.models, []
    for number in TABLE_BITS:
        candidate = _at(precision, number)
        size = bits(models.estimate(selection.model, candidate).bits_per_parameter)
        known = None if number == FULL_BITS else models.known_table_cost(selection.model, candidate)
        cost = (
            ("0", "100 %")
            if number == FULL_BITS
            else ("", "")
            if known is None
            else (nats(known.kl_mean), percent(known.same_top))
        )
        rows.append((number, size, *cost))
    return html.render("table_bits.html", rows=rows, segments=COST_SEGMENTS, seq_len=COST_SEQ_LEN)
