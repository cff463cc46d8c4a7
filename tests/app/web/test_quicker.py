"""What gradio is spared, as this version of it is built: an upgrade that is built otherwise fails here."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from starlette.routing import Mount

from app.services import Explorer
from app.web.dashboard import web_application
from app.web.quicker import check_of_accounts

ROOT = Path(__file__).resolve().parents[3]


def test_what_a_page_asks_all_the_time_comes_first_and_waits_for_no_thread(explorer: Explorer) -> None:
    async def build() -> Any:  # inside a loop: outside of one, Gradio makes loops that nobody closes
        return web_application(explorer).routes[-1]

    mounted = asyncio.run(build())
    assert isinstance(mounted, Mount)
    pages: Any = mounted.app
    assert check_of_accounts(pages).__name__ == "login_check"
    assert check_of_accounts(pages) in pages.dependency_overrides
    first = [route.path for route in pages.router.routes[0].original_router.routes[:3]]
    assert {"/gradio_api/queue/join", "/gradio_api/queue/data"} <= set(first)


def test_matplotlib_is_not_looked_for_at_every_call() -> None:
    """Whoever asks whether it is installed is told no, as before."""
    code = """
import importlib.util, sys
sys.modules.pop("matplotlib", None)
missing = importlib.util.find_spec("matplotlib") is None
from types import SimpleNamespace
from app.web import quicker
quicker.check_of_accounts = lambda pages: None
router = SimpleNamespace(routes=[SimpleNamespace(original_router=SimpleNamespace(routes=[]))])
quicker.quicken(SimpleNamespace(dependency_overrides={}, router=router))
assert missing == ("matplotlib" in sys.modules) == (importlib.util.find_spec("matplotlib") is None)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
