"""The columns that Generate offers for a model, and their titles."""

from app.figures.pareto import lens_of
from app.web.page.context import Page
from app.web.page.selection import Selection, run_choices
from storage.run_ids import means_run


def column_choices(page: Page, selection: Selection) -> list[tuple[str, str]]:
    """(label, column) of full precision, of precisions that are rounded to nearest, and of the model's runs."""
    runs = page.services.runs.newest_frame()
    rounded = list(dict.fromkeys([selection.precision, "W8A8", "W4A8", "W4A4", "W2*A8", "W2A8"]))
    return [
        ("Full precision", "full"),
        *((f"{precision} rounded", precision) for precision in rounded),
        *run_choices(runs[runs["model"].eq(selection.model)]),
    ]


def column_title(page: Page, column: str) -> tuple[str, str]:
    """Title and lens of a column."""
    if column == "full":
        return "Full precision", "full"
    if not means_run(column):
        return f"{column} rounded", "rounded"
    run = page.services.runs.get(column)
    return f"{run.precision} {run.method}", lens_of(run.method)
