"""No event of the page has two functions that Gradio may repeat together (`Header.turn`)."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from app_cases import settings_in

from app.services import open_services
from app.web.access.visitor_texts import VisitorTexts
from app.web.dashboard import build


def test_each_event_has_at_most_one_function_that_waits(tmp_path: Path) -> None:
    services = open_services(settings_in(tmp_path))

    async def config() -> dict[str, Any]:  # Gradio creates event loops and does not close them if none is running
        blocks, _ = build(services, VisitorTexts(tmp_path, services.jobs.texts_in_use))
        return dict(blocks.get_config_file())

    page = asyncio.run(config())
    turns = {one["id"] for one in page["components"] if "abq-turn-" in str(one["props"].get("elem_classes"))}
    followers = [one for one in page["dependencies"] if any(target in turns for target, _ in one["targets"])]
    assert {one["trigger_mode"] for one in followers} == {"always_last"}
    assert {target for one in followers for target, _ in one["targets"] if target in turns} == turns
    functions = Counter(
        tuple(target)
        for one in page["dependencies"]
        for target in one["targets"]
        if one["trigger_mode"] == "always_last" and one["backend_fn"]
    )
    assert len(functions) > 40
    assert [target for target, count in functions.items() if count > 1] == []
