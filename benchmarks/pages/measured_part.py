"""The part of a page between two comments, which a benchmark writes."""

from pathlib import Path

BEGIN, END = "<!-- measured -->", "<!-- end -->"


def replace_measured(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace the text between two comments of a page. Raises ValueError if the page lacks them."""
    before, found, rest = page.read_text("utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{page} has no part between {begin} and {end}: add the two comments.")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", "utf-8")
