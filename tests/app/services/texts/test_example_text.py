"""The text that came with the examples is what its columns write."""

from collections import Counter
from pathlib import Path

import pytest

from abq_core.inference.generate import Token
from app.services import Services
from app.services.texts.example_text import ExampleText
from app.web.tabs.generate_form import FIRST


def test_the_text_is_that_of_the_forms_first_values_and_of_an_example(services: Services) -> None:
    text = ExampleText.read()
    assert services.examples.add_to_new_folder()
    full, precision, run = text.columns
    assert (full, services.runs.get(run).precision, text.prompt) == ("full", precision, FIRST.prompt)
    assert text.is_of("builtin", text.columns) and not text.is_of("builtin", [full, run])
    assert Counter(token.column for token in text.tokens) == dict.fromkeys(text.columns, FIRST.tokens)

    events = services.generation.generate(text.columns, text.prompt, 8, FIRST.temperature, FIRST.seed)
    for token in events:
        if isinstance(token, Token):
            stored = next(one for one in text.tokens if (one.column, one.index) == (token.column, token.index))
            assert (stored.text, stored.chosen) == (token.text, token.chosen)
            assert stored.kl == pytest.approx(token.kl, abs=1e-2)
            assert [one.text for one in stored.candidates[:1]] == [one.text for one in token.candidates[:1]]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    text = ExampleText.read()
    text.write(tmp_path / "text.json")
    assert ExampleText.read(tmp_path / "text.json") == text
