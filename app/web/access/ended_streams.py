"""Ends an event stream that Gradio refuses after it has begun: that of an unknown session."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class EndedStreamMiddleware:
    """Ends the response where Gradio raises an HTTPException after the first bytes.

    Without it the log gets a traceback. Starlette reports this as a RuntimeError whose cause is the HTTPException.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except RuntimeError as error:
            if not started or not isinstance(error.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})
