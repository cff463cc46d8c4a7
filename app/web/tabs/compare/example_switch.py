"""Hide the examples that came with the program, or show them again."""

from dataclasses import dataclass

import gradio as gr
from gradio.events import Dependency

from app.web import html
from app.web.page.callbacks import PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.selection import Selection


@dataclass(frozen=True)
class ExampleSwitch:
    """The button."""

    button: gr.Button

    def shown(self, page: Page) -> Updates:
        """The button's text; hidden if no example is left."""
        left, hidden = page.services.examples.counts()
        text = f"Show the {hidden} examples" if hidden else f"Hide the {left} examples"
        return {self.button: gr.update(value=text, visible=left > 0)}

    def on_switch(self, page: Page, answer: gr.HTML) -> Dependency:
        """The event after which the runs have changed."""

        @callback(answer)
        def switch_examples(selection: Selection) -> Updates:
            hide = page.services.examples.counts().hidden == 0
            page.services.examples.hide(hide)
            said = "The examples are hidden. Their files stay." if hide else "The examples are shown again."
            return {answer: html.answer(said, "compare"), **page.header.show_settled(selection)}

        return self.button.click(switch_examples, page.selection, [answer, *page.header.outputs], **PRIVATE)


def build_example_switch() -> ExampleSwitch:
    """Build the button inside the current column."""
    return ExampleSwitch(gr.Button("Hide the examples", size="sm", visible=False, elem_id="compare-examples"))
