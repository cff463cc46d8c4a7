"""Streams: columns are compared with the first, shaded by KL divergence, and escaped."""

import json
import re
from html import unescape
from types import SimpleNamespace

from abq_core.inference.generate import Candidate
from app.web.page.streams import Streams


def token(
    column: str, number: int, text: str, kl: float | None = None, chosen: int | None = None, candidates: object = ()
) -> SimpleNamespace:
    chosen = number if chosen is None else chosen
    return SimpleNamespace(column=column, id=number, text=text, kl=kl, chosen=chosen, candidates=candidates)


def test_the_first_difference_is_marked_and_summarized() -> None:
    streams = Streams("def ", {"full": ("Full precision", "full"), "W2A8": ("W2A8 rounded", "rounded")})
    for number in (1, 2):
        streams.add(token("full", number, "x"))
    streams.add(token("W2A8", 1, "x", 0.1))
    assert "produces the same text" in streams.summary()
    streams.add(token("W2A8", 9, "y", 0.3))
    assert "first differs at token 2, mean KL 0.200 nats" in streams.summary()
    shown = streams.html()
    assert shown.count("abq-first") == 1 and shown.count("data-kl") == 2
    assert "rgba(220,38,38,0.17)" in shown  # 0.55 * sqrt(0.1)


def test_prompts_titles_and_tokens_are_escaped_and_keep_their_spaces() -> None:
    streams = Streams("<i> a\n", {"<b>": ("<b>", "full")})
    streams.add(token("<b>", 1, " <u>\n"))
    shown = streams.html()
    assert "<i>" not in shown.replace('<p class="abq-key"><i>', "") and "<b>" not in shown and "<u>" not in shown
    assert '<span class="abq-prompt">&lt;i&gt; a\n</span><span> &lt;u&gt;\n</span></p>' in shown


def test_a_column_that_follows_is_marked_where_it_would_choose_another_token() -> None:
    titles = {"full": ("Full precision", "full"), "W2A8": ("W2A8 rounded", "rounded")}
    streams = Streams("def ", titles, follow=True)
    for number, chosen in ((1, 1), (2, 7), (3, 8)):
        streams.add(token("full", number, "x", 0.0))
        streams.add(token("W2A8", number, "x", 0.5, chosen))
    assert "would choose another token at 2 of 3 positions, mean KL 0.500 nats" in streams.summary()
    shown = streams.html()
    assert shown.count('class="abq-other"') == 2 and "Underlined tokens" in shown and "abq-first" not in shown


def test_candidates_are_data_that_cannot_become_markup() -> None:
    hostile = "\"'><img src=x onerror=alert(1)>"
    streams = Streams("def ", {"full": ("Full precision", "full")})
    streams.add(token("full", 5, "x", 0.0, candidates=(Candidate(5, hostile, 0.75), Candidate(6, "y", 0.25))))
    shown = str(streams.html())
    assert "<img" not in shown
    (found,) = re.findall(r'data-top="([^"]*)"', shown)
    assert json.loads(unescape(found)) == [[hostile, 0.75, True], ["y", 0.25, False]]


def test_a_finished_column_shows_its_speed_and_size() -> None:
    streams = Streams("a", {"full": ("Full precision", "full")})
    assert "waiting for the first token" in streams.html()
    streams.add(
        SimpleNamespace(column="full", tokens_per_second=24.04, first_token_seconds=0.0123, weight_bytes=3 << 20)
    )
    shown = streams.html()
    assert "24.0 tokens/s, first token after 12.3 ms" in shown and "3.00 MiB" in shown
