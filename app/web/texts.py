"""The route by which visitors add their own texts: POST /abq/texts/NAME with the text as its body."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.web.access.login import account_of
from app.web.access.paths import URL_OF_TEXTS
from app.web.access.visitor_texts import VisitorTexts


def text_route(texts: VisitorTexts) -> Route:
    """The route. The response names the stored text: {"text": PATH}, or {"error": SENTENCE}.

    One text of an account is received at a time, so that bodies take a bounded amount of memory.
    """
    receiving: set[str | None] = set()

    async def add(request: Request) -> Response:
        account = account_of(request)
        if account in receiving:
            return JSONResponse({"error": "Another text of yours is being received. Wait for it."}, 429)
        receiving.add(account)
        try:
            content = await request.body()
            path = await run_in_threadpool(texts.add, account, request.path_params["name"], content)
        except (ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, 422)
        finally:
            receiving.discard(account)
        return JSONResponse({"text": str(path)})

    return Route(f"{URL_OF_TEXTS}{{name}}", add, methods=["POST"])
