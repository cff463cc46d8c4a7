"""The part of a page between two comments, which a benchmark writes."""

from pathlib import Path

BEGIN, END = "<!-- measured -->", "<!-- end -->"


def replace_measured(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace the text between two comments of a page."""
    before, _, rest = page.read_text("utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")
