"""The objects that every tab needs to wire its widgets."""

from dataclasses import dataclass

import gradio as gr

from app.services import Services
from app.web.limits import Limits
from app.web.page.header import Header


@dataclass(frozen=True)
class Page:
    """Services, the header with the selection (hidden, as JSON), the tabs, and the limits per visitor."""

    services: Services
    header: Header
    tabs: gr.Tabs
    limits: Limits

    @property
    def selection(self) -> gr.Textbox:
        return self.header.selection
