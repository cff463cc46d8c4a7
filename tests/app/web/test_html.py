"""Templates.

Values are escaped, terms have tooltips, and every template of the package can be loaded.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import app.web
from app.web import html
from app.web.glossary import TERMS

HOSTILE = "\"><script>alert(1)</script>'"
TEMPLATES = sorted(path.name for path in (Path(app.web.__file__).parent / "templates").glob("*.html"))


@pytest.mark.parametrize("shown", [html.answer, html.problem, html.command, lambda text: html.facts([(text, text)]),
                                   lambda text: html.empty(text, text)])  # fmt: skip
def test_texts_are_escaped(shown: Callable[[str], str]) -> None:
    assert "<script>" not in shown(HOSTILE) and "&lt;script&gt;" in shown(HOSTILE)


def test_markup_is_not_escaped_again() -> None:
    assert html.term("KL") in html.answer(html.term("KL"))


def test_terms_name_the_section_of_the_paper() -> None:
    assert "See Distribution Correction in arXiv 2408.08554." in html.term("DLC")
    assert ">top tokens<" in html.term("same top token", "top tokens")
    assert all(term.explanation.endswith(".") for term in TERMS.values())


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        html.render("answer.html")


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_turns_escaping_off(name: str) -> None:
    source = (Path(app.web.__file__).parent / "templates" / name).read_text("utf-8")
    assert "autoescape" not in source
    assert "safe" not in source
