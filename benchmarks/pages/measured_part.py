"""The part of a page between two comments, which a benchmark writes."""

from pathlib import Path

BEGIN, END = "<!-- measured -->", "<!-- end -->"


def replace_measured(page: Path, text: str) -> None:
    """Replace the text between the two comments of a page."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")
