"""HTML of the page, rendered from the Jinja2 templates in templates/."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Render a template. Values are escaped; a value that the template needs and does not get is an error."""
    return _ENVIRONMENT.get_template(template).render(values)
