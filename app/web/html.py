"""HTML from the Jinja2 templates in app/web/templates.

Every value is escaped unless it is Markup already.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from app import formatting
from app.jinja import template_environment
from app.web.glossary import TERMS
from app.web.questions import NEXT

BLANK = Markup("&nbsp;")
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
FILTERS = (
    formatting.bits, formatting.percent, formatting.perplexity, formatting.seconds, formatting.size,
    formatting.tokens_per_second,
)  # fmt: skip


def render(template: str, **values: object) -> Markup:
    """The named template with these values."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def term(name: str, text: str | None = None) -> Markup:
    """A term of the glossary, or `text`, with the explanation as its tooltip.

    Raises KeyError for an unknown term.
    """
    return render("term.html", tooltip=TERMS[name].tooltip, text=text or name)


def answer(text: str, tab: str | None = None) -> Markup:
    """The one-line answer above a figure. tab: its own; the line then ends with the next question as a link."""
    return render("answer.html", text=text, next=None if tab is None else NEXT[tab])


def problem(message: object) -> Markup:
    """An error message in place of the answer."""
    return render("problem.html", message=str(message))


def empty(title: str, text: str) -> Markup:
    """The empty state of a tab: what it will show and how to get there."""
    return render("empty.html", title=title, text=text)


def command(lines: str | Iterable[str]) -> Markup:
    """The command lines that do the same as a form."""
    return render("command.html", lines=lines if isinstance(lines, str) else "\n".join(lines))


def facts(rows: Sequence[tuple[str, str]]) -> Markup:
    """Names and values in two columns."""
    return render("facts.html", rows=rows)


_TEMPLATES = template_environment(Path(__file__).with_name("templates"))
_TEMPLATES.filters.update({function.__name__: function for function in FILTERS})
_TEMPLATES.globals["term"] = term
