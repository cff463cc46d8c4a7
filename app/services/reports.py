"""Reports about runs: collects what a report shows and writes the file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas

from app.clock import now
from app.files import output_path, write_output
from app.services.dataframes import same_evaluation
from app.services.errors import ServiceError
from app.services.jobs import JobService
from app.services.runs import RunService
from app.services.tasks import TaskService
from storage.runs import Run

_DIAGNOSTICS = ("blocks", "histograms", "levels", "attention", "attention_tokens")  # those that have figures


class ReportService:
    """Writes reports about runs."""

    def __init__(self, runs: RunService, jobs: JobService, tasks: TaskService) -> None:
        self._runs, self._jobs, self._tasks = runs, jobs, tasks

    def write(
        self,
        run_ids: Sequence[str],
        path: Path,
        may_show: Callable[[Run], bool] = lambda run: True,
        *,
        force: bool = False,
    ) -> Path:
        """Write one self-contained HTML file about these runs.

        Without run ids, about all runs that succeeded, without examples.

        may_show(run): False leaves out the figures and the text of a run.  force: replace an existing file.
        A run that is named twice is reported once.
        Returns the absolute path. Raises ServiceError, RunNotFoundError, and what `output_path` raises.
        """
        from app.runs.reports import Report, ReportedRun, render_report

        path = output_path(path, force)
        table = self._table(run_ids)
        runs = [
            ReportedRun(
                run=run,
                texts=self._runs.texts(run.id) if may_show(run) else {},
                weights=self._runs.stored_weights(run.id),
                tasks=self._tasks.frame(run.id),
                diagnostics=self._diagnostics(run.id) if may_show(run) else {},
                losses=self._jobs.losses(run.id),
            )
            for run in map(self._runs.get, _runs_with_figures(table))
        ]
        write_output(path, render_report(Report(table, runs, now())).encode("utf-8", "backslashreplace"), force)
        return path

    def _table(self, run_ids: Sequence[str]) -> pandas.DataFrame:
        """Rows of the reported runs, after those of their models at full precision."""
        frame = self._runs.frame()
        chosen = list(dict.fromkeys(self._runs.get(run_id).id for run_id in run_ids)) or list(
            frame.loc[(frame["state"] == "succeeded") & (frame["run"] != "") & ~frame["example"], "run"]
        )
        if not chosen:
            raise ServiceError("There are no finished runs. Make one with `abq calibrate`; see `abq jobs list`.")
        runs = frame.set_index("run", drop=False).loc[chosen]
        shown = runs.to_dict("records")
        compared = [any(same_evaluation(row, run) for run in shown) for row in frame.to_dict("records")]
        full = frame[(frame["run"] == "") & pandas.Series(compared, index=frame.index)]
        return pandas.concat([full, runs])

    def _diagnostics(self, run_id: str) -> dict[str, pandas.DataFrame]:
        folder = self._runs.folder(run_id)
        stored = folder.frame_names()
        return {name: folder.read_frame(name) for name in _DIAGNOSTICS if name in stored}


def _runs_with_figures(table: pandas.DataFrame) -> list[str]:
    """Runs whose figures are shown.

    Those of a calibrated run show rounding too, so its rtn run needs none.
    """
    rows = table[table["run"] != ""].to_dict("records")
    calibrated = {(row["model"], row["precision"]) for row in rows if row["method"] != "rtn"}
    return [row["run"] for row in rows if row["method"] != "rtn" or (row["model"], row["precision"]) not in calibrated]
