"""Checks the JSON bodies of the page's requests before Gradio reads them.

A wrong value is answered with 422 and a sentence.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.access.page_functions import Checked
from app.web.access.value_types import Finite, Text, WholeNumber, sentence

JOIN, CALL = "/gradio_api/queue/join", "/gradio_api/call/"
CHECKED: Mapping[Any, Any] = {
    int: WholeNumber, float: Finite, str: Text, list[int]: list[WholeNumber], list[str]: list[Text]
}  # fmt: skip


class CallBody(BaseModel, strict=True):
    """The body of a call by name."""

    data: list[Any]
    session_hash: str | None = None


class JoinBody(BaseModel, strict=True):
    """The body of a call by number, as the page and `gradio_client` send it."""

    data: list[Any]
    fn_index: int
    session_hash: str
    trigger_id: int | None = None
    event_data: Any = None


class CancelBody(BaseModel, strict=True):
    """The body that cancels a call."""

    session_hash: str
    fn_index: int
    event_id: str


class ResetBody(BaseModel, strict=True):
    """The body that ends a stream."""

    event_id: str


BODIES: Mapping[str, type[BaseModel]] = {
    JOIN: JoinBody,
    "/gradio_api/cancel": CancelBody,
    "/gradio_api/reset": ResetBody,
}


class Arguments:
    """The parameters of one endpoint as a pydantic model, in the order of the call's `data`."""

    def __init__(self, function: Callable[..., object]) -> None:
        """function: its annotated parameters, but for a `gradio.Request`, are the arguments."""
        parameters = inspect.signature(function).parameters.values()
        fields: dict[str, Any] = {
            one.name: (CHECKED.get(one.annotation, one.annotation), ...)
            for one in parameters
            if one.annotation is not gr.Request
        }
        self.name = function.__name__
        self._model = create_model(self.name, __config__=ConfigDict(strict=True), **fields)

    def problem(self, data: Sequence[object], event: object = None) -> str | None:
        """A sentence about the first wrong argument, None if all fit."""
        names = list(self._model.model_fields)
        if len(data) != len(names):
            return f"{self.name} takes {len(names)} arguments ({', '.join(names) or 'none'}), and got {len(data)}."
        try:
            self._model.model_validate(dict(zip(names, data, strict=True)))
        except ValidationError as error:
            return f"{self.name}: {sentence(error)}"
        return None


class RequestBodyMiddleware:
    """422 with a sentence for a body that is malformed, 404 for a call of an unknown function.

    endpoints: the arguments of each named endpoint.  functions: those of every function, by its number.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Checked], functions: Mapping[int, Checked]) -> None:
        self.app, self._endpoints, self._functions = app, endpoints, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        path = scope.get("path", "")
        is_call = path.startswith(CALL)
        if scope["type"] != "http" or scope["method"] != "POST" or not (is_call or path in BODIES):
            await self.app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            return
        name = path.removeprefix(CALL) if is_call else None
        problem, status = self._problem(path, name, body)
        if problem is not None:
            await _refusal(problem, status)(scope, receive, send)
            return
        sent = False

        async def replayed() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replayed, send)

    def _problem(self, path: str, name: str | None, body: bytes) -> tuple[str | None, int]:
        """A sentence about the body and its status; (None, 200) if it is well-formed."""
        if name is not None and name not in self._endpoints:
            return f"There is no endpoint {name!r}. Use one of {', '.join(sorted(self._endpoints))}.", 404
        try:
            content = json.loads(body)
            checked = (CallBody if name is not None else BODIES[path]).model_validate(content)
        except ValidationError as error:
            return f"The request's JSON is not valid: {sentence(error)}", 422
        except (ValueError, RecursionError):  # no JSON, not UTF-8, a number of thousands of digits, deep nesting
            return 'The request\'s body is not valid JSON. Send an object such as {"data": []}.', 422
        if isinstance(checked, JoinBody):
            return self._join_problem(checked)
        if isinstance(checked, CallBody) and name is not None:
            problem = self._endpoints[name].problem(checked.data, None)
            return problem, 200 if problem is None else 422
        return None, 200

    def _join_problem(self, body: JoinBody) -> tuple[str | None, int]:
        if body.fn_index not in self._functions:
            return f"There is no function with number {body.fn_index}. Reload the page.", 404
        problem = self._functions[body.fn_index].problem(body.data, body.event_data)
        return problem, 200 if problem is None else 422


def _refusal(problem: str, status: int) -> JSONResponse:
    """The refusal as a sentence, also in the `detail` that Gradio's clients raise as an error."""
    detail = {"__type__": "validate", "is_valid": False, "parameter_name": "request", "message": problem}
    return JSONResponse({"error": problem, "detail": [detail]}, status)


async def _read(receive: Receive) -> bytes | None:
    """The whole body, whose size another middleware limits; None if the client disconnected."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
