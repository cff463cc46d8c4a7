"""Gradio's application without some of what it does at every request: what is left out answers nothing here."""

import importlib.util
import sys
from typing import Any

from gradio.routes import App

HOT = "/queue/"  # the path of what a page asks all the time


def quicken(pages: App) -> None:
    """Change gradio's application in place, before its first request.

    Its check of accounts waits for a thread at every request; accounts are ours (`app.web.access.login`), and it
    lets everybody pass. Sixty routes are compared with a path before those that a page asks all the time: these come
    first. And around every call it looks for matplotlib in all folders, twice, where that is not installed.
    """
    pages.dependency_overrides[check_of_accounts(pages)] = _pass
    pages.router.routes.sort(key=lambda route: hasattr(route, "path"))  # those of /gradio_api are one without a path
    included: Any = pages.router.routes[0]
    included.original_router.routes.sort(key=lambda route: HOT not in route.path)
    if importlib.util.find_spec("matplotlib") is None:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]  # "not there", without looking


def check_of_accounts(pages: App) -> Any:
    """What gradio calls before every answer."""
    route: Any = next(route for route in pages.routes if getattr(route, "path", "") == "/config")
    return route.dependencies[0].dependency


async def _pass() -> None:
    return None
