"""Calls of a running page's endpoints, as another program would make them."""

import json
import urllib.request


def submit_rounding(address: str, precision: str, tokens: int) -> None:
    """Queue rounding of the built-in model, with two segments of this length. Fails unless the page queued it."""
    body = {"data": ["builtin", precision, "rtn", "builtin", 2, tokens, -1, 0]}
    url = f"{address}gradio_api/call/submit"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{url}/{event}") as answer:
        told = answer.read().decode()
    assert "queued" in told, told
