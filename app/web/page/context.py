"""The objects that every tab needs to wire its widgets."""

from dataclasses import dataclass

import gradio as gr

from app.services import Services
from app.web.limits import Limits
from app.web.page.header import Header


@dataclass(frozen=True)
class Page:
    """The page as a tab sees it: services, header, tabs, and the limits per visitor.

    The header holds the selection, hidden, as JSON.
    """

    services: Services
    header: Header
    tabs: gr.Tabs
    limits: Limits

    @property
    def selection(self) -> gr.Textbox:
        """The hidden text box that holds the page's selection as JSON."""
        return self.header.selection
