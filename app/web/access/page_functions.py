"""Checks of the values that the page's widgets send, before Gradio reads them.

Gradio's own checks write a traceback for each wrong value, so the page's events disable them (`preprocess=False`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError

from app.web.access.value_types import Finite, Text, sentence


class Checked(Protocol):
    """A function of the page or an endpoint."""

    def problem(self, data: Sequence[object], event: object) -> str | None:
        """A sentence about its arguments, or None if they can be used. event: the data of a `select` event."""
        ...


class SelectEvent(BaseModel, strict=True):
    """The data of a `select` event."""

    index: int
    value: Text


class Widget(NamedTuple):
    """One input of a function: its name in messages, and the type of its value."""

    name: str
    type: TypeAdapter[Any]


class PageFunction:
    """A function of the page: its inputs in order. selects: it reads the data of a `select` event."""

    def __init__(self, widgets: Sequence[Widget], selects: bool) -> None:
        self._widgets, self._selects = widgets, selects

    def problem(self, data: Sequence[object], event: object) -> str | None:
        """A sentence about the values, or None if they can be used."""
        if len(data) != len(self._widgets):
            return f"{len(self._widgets)} values are needed, and {len(data)} came."
        for widget, value in zip(self._widgets, data, strict=True):
            try:
                widget.type.validate_python(value, strict=True)
            except ValidationError as error:
                return f"{widget.name}: {sentence(error)}"
        try:
            if self._selects:
                SelectEvent.model_validate(event)
        except ValidationError as error:
            return f"event_data: {sentence(error)}"
        return None


def page_functions(config: Mapping[str, Any], endpoints: Mapping[str, Checked]) -> dict[int, Checked]:
    """By its number, each function of the page and each endpoint.

    config: from `gradio.Blocks.get_config_file`.
    """
    widgets = {component["id"]: _widget(component) for component in config["components"]}
    functions: dict[int, Checked] = {}
    for one in config["dependencies"]:
        inputs = [widgets[number] for number in one["inputs"]]
        own = PageFunction(inputs, selects=one["collects_event_data"])
        functions[one["id"]] = endpoints.get(one["api_name"], own)
    return functions


def _widget(component: Mapping[str, Any]) -> Widget:
    kind, props = component["type"], component["props"]
    return Widget(str(props.get("elem_id") or props.get("label") or kind), TypeAdapter(_type(kind, props)))


def _type(kind: str, props: Mapping[str, Any]) -> Any:
    """The type of a widget's value. Dropdowns get their choices while the page runs, so their functions check them."""
    if kind == "textbox":
        return Text | None
    if kind in ("number", "slider"):
        return Finite | None
    if kind == "checkbox":
        return bool
    if kind == "dropdown":
        return (list[Text] if props.get("multiselect") else Text) | None
    if kind in ("radio", "checkboxgroup"):
        choice = Literal[tuple(value for _, value in props["choices"])]
        return choice if kind == "radio" else list[choice]  # type: ignore[valid-type]
    return Any  # the value stays on the server, or no function reads it
