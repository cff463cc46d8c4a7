"""The objects that every tab needs to wire its widgets."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.services import Services
from app.web.access.visitor_texts import VisitorTexts
from app.web.limits import Limits
from app.web.page.header import Header


@dataclass(frozen=True)
class Page:
    """The page as a tab sees it: services, header, tabs, the limits per visitor, and the texts that visitors added.

    The header holds the selection, hidden, as JSON.
    """

    services: Services
    header: Header
    tabs: gr.Tabs
    limits: Limits
    texts: VisitorTexts

    @property
    def selection(self) -> gr.Textbox:
        """The hidden text box that holds the page's selection as JSON."""
        return self.header.selection

    def turn(self, tab: str) -> Any:
        """The event that follows the selection (`Header.turn`); connect it with FOLLOW."""
        return self.header.turn(tab)
