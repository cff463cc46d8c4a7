"""Which text to calibrate on: one run per text, each evaluated on every text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas

from abq_core.spec import EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN, CalibrationSpec
from abq_core.text.sources import is_name
from app.services.dataframes import WINDOWS
from app.services.errors import ServiceError
from app.services.evaluation import EvaluationService, EvaluationText
from app.services.local_path import local_path
from app.services.sources import Sources
from app.services.stored import Storage
from app.services.sweeps import PlannedCalibration, SweepService
from storage.measurements import EvaluationRecord

COLUMNS = ["calibrated_on", "evaluated_on", "run", "kl_mean", "perplexity"]
MOST_TEXTS = 8

OnStep = Callable[[int, int], None]


class TextLab:
    """The runs that differ only in their calibration text, and their KL on each of the texts."""

    def __init__(self, storage: Storage, sources: Sources, sweeps: SweepService, evaluation: EvaluationService) -> None:
        self._measurements, self._sources = storage.measurements, sources
        self._sweeps, self._evaluation = sweeps, evaluation

    def plan(self, spec: CalibrationSpec, texts: Sequence[str], account: str | None = None) -> list[PlannedCalibration]:
        """One calibration per text, otherwise as `spec`, with the run that it already has.

        account: of the page's visitor who names the texts. Raises ServiceError for fewer than two texts or more than
        MOST_TEXTS, and what `SweepService.plan` raises.
        """
        for text in texts:  # before any path is looked at
            self._sources.check_text(text, account)
        different = list(dict.fromkeys(map(local_path, texts)))
        if not 2 <= len(different) <= MOST_TEXTS:
            raise ServiceError(f"{len(different)} texts are chosen: choose 2 to {MOST_TEXTS} different ones.")
        return self._sweeps.plan([replace(spec, data=text) for text in different], account)

    def matrix(self, planned: Sequence[PlannedCalibration]) -> pandas.DataFrame:
        """One row per pair of texts: COLUMNS. run "" or kl_mean NaN: that part is not there yet."""
        texts = [one.spec.data for one in planned]
        runs = [one.run.id if one.run is not None and one.state == "succeeded" else "" for one in planned]
        found = [self._evaluations(run) if run else {} for run in runs]
        rows = []
        for text in texts:
            column = [one[text] for one in found if text in one]
            best = max(column, key=lambda record: (*_amount(record), record.created_at), default=None)
            for own, run, evaluations in zip(texts, runs, found, strict=True):
                record = evaluations.get(text)
                same = record is not None and best is not None and _read(record) == _read(best)
                values = record.values if record is not None and same else {}
                rows.append([own, text, run, values.get("kl_mean"), values.get("perplexity")])
        return pandas.DataFrame(rows, columns=COLUMNS).astype({"kl_mean": float, "perplexity": float})

    def measure(
        self, planned: Sequence[PlannedCalibration], on_step: OnStep | None = None, account: str | None = None
    ) -> pandas.DataFrame:
        """Evaluate the finished runs on the texts that they lack, and return the matrix.

        Of a file every run reads the last tenth, as the run that was calibrated on it must. on_step(done, total): in
        hundredths of an evaluation; may raise to stop.  account: of the page's visitor. Raises as `evaluate` does.
        """
        for _ in range(2):  # the second pass repeats evaluations that had read less of a text than the first pass did
            cells = self.matrix(planned)
            missing = cells[cells["run"].ne("") & cells["kl_mean"].isna()]
            for at, (run, text) in enumerate(zip(missing["run"], missing["evaluated_on"], strict=True)):

                def on_part(done: int, total: int, at: int = at, count: int = len(missing)) -> None:
                    if on_step is not None:
                        on_step(100 * at + 100 * done // max(total, 1), 100 * count)

                self._evaluation.evaluate(run, EvaluationText(text, held_out=True), on_part, account)
        return self.matrix(planned)

    def _evaluations(self, run: str) -> Mapping[str, EvaluationRecord]:
        """The newest evaluation of a run on the held-out part of each text, if it read no more than the default."""
        newest: dict[str, EvaluationRecord] = {}
        for record in self._measurements.evaluations(run):  # newest first
            values = record.values
            split = (values.get("text") or {}).get("split")
            windows = values.get("protocol", WINDOWS) == WINDOWS
            usual = values["segments"] <= EVALUATION_SEGMENTS and values["seq_len"] <= EVALUATION_SEQ_LEN
            if windows and usual and split == "evaluation":
                newest.setdefault(local_path(str(values.get("data"))), record)
        return newest


def short_names(texts: Sequence[str]) -> dict[str, str]:
    """A name for each text: of a file its name, or its path if two have the same name."""
    names = {text: text if is_name(text) else Path(text).name for text in texts}
    return {text: name if list(names.values()).count(name) == 1 else text for text, name in names.items()}


def _amount(record: EvaluationRecord) -> tuple[int, int]:
    return record.values["seq_len"], record.values["segments"]


def _read(record: EvaluationRecord) -> tuple[object, ...]:
    """What a column compares: equal amounts of a text with the same content."""
    return *_amount(record), (record.values.get("text") or {}).get("sha256")
