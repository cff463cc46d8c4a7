"""Bits under a budget: sensitivities measured once and kept as files, choices from them, predictions beside results."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas

from abq_core.mix import MixError
from abq_core.models.reference import fingerprint
from abq_core.planning.allocate import Allocation, allocate, check_request, predicted_kl
from abq_core.planning.sensitivity import Sensitivity, sensitivities
from abq_core.precision import Precision
from abq_core.spec import read_precision
from abq_core.text.segments import recorded_segments
from app.files import write_atomically

if TYPE_CHECKING:
    from app.services.explorer import Explorer

FOLDER = "sensitivity"
SEQ_LEN = 256
Text = tuple[str, int, int | None, int]  # data, segments, seq_len, seed: the calibration text that is measured on
PREDICTION_COLUMNS = ["run", "precision", "method", "stored_bits", "predicted_kl", "kl_mean", "perplexity"]


def allocate_bits(
    explorer: "Explorer",
    ref: str,
    candidates: Sequence[str],
    stored_bits: float | None,
    stored_bytes: int | None,
    text: Text,
    on_step: Callable[[int, int], None] | None,
) -> Allocation:
    """Measure what is not known yet, then choose. Raises BudgetError, PrecisionError, ModelError, DataError."""
    wanted = list(dict.fromkeys(Precision.parse(candidate) for candidate in candidates))
    check_request(wanted, stored_bits, stored_bytes)
    measured = _measured(explorer, ref, wanted, text, on_step)
    return allocate(measured, stored_bits=stored_bits, stored_bytes=stored_bytes)


def predictions_frame(explorer: "Explorer", model: str) -> pandas.DataFrame:
    """The model's evaluated runs whose linears were all measured: predicted and measured KL to full precision."""
    known = _known(_folder(explorer), model)
    frame = explorer.runs_frame()
    frame = frame[frame["model"].eq(model) & frame["run"].ne("") & frame["kl_mean"].notna()]
    rows = []
    for row in frame.to_dict("records"):
        try:
            predicted = predicted_kl(known, read_precision(explorer.run(row["run"]).spec))
        except MixError:  # made for a model that has since changed
            continue
        if predicted is not None:
            rows.append({**row, "predicted_kl": predicted})
    return pandas.DataFrame(rows, columns=PREDICTION_COLUMNS)


def _measured(
    explorer: "Explorer",
    model: str,
    candidates: Sequence[Precision],
    text: Text,
    on_step: Callable[[int, int], None] | None,
) -> list[Sensitivity]:
    """Of every linear at every candidate: from files where they are, else measured and kept."""
    base = explorer.registry.full(model)
    data, segments, seq_len, seed = text
    seq_len = min(SEQ_LEN, base.context) if seq_len is None else seq_len
    ids, record = recorded_segments(data, base.tokenizer, segments, seq_len, seed, "calibration")
    source = {"model": model, "fingerprint": fingerprint(model), "text": record.sha256}
    paths = {candidate: _folder(explorer) / f"{_key(source, candidate)}.json" for candidate in candidates}
    missing = [candidate for candidate, path in paths.items() if not path.is_file()]
    if missing:
        found = sensitivities(base, missing, ids, on_step)
        for candidate in missing:
            own = [one for one in found if one.precision == candidate]
            write_atomically(paths[candidate], json.dumps(source | _rows(candidate, own), indent=1).encode())
    return [one for path in paths.values() for one in _read(path)]


def _folder(explorer: "Explorer") -> Path:
    return explorer.settings.data_dir / FOLDER


def _key(source: dict[str, str], candidate: Precision) -> str:
    """A name that follows from all that the measurement depends on."""
    content = json.dumps([source["fingerprint"], source["text"], str(candidate)])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def _rows(candidate: Precision, measured: Iterable[Sensitivity]) -> dict[str, Any]:
    linears = [[one.block, one.name, one.kl, one.rows, one.columns] for one in measured]
    return {"precision": str(candidate), "linears": linears}


def _read(path: Path) -> list[Sensitivity]:
    content = json.loads(path.read_text("utf-8"))
    precision = Precision.parse(content["precision"])
    return [Sensitivity(block, name, precision, *rest) for block, name, *rest in content["linears"]]


def _known(folder: Path, model: str) -> list[Sensitivity]:
    """All that was measured of a model; of what was measured twice (on another text) the newest."""
    newest: dict[str, list[Sensitivity]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        content = json.loads(path.read_text("utf-8"))
        if content["model"] == model:
            newest[content["precision"]] = _read(path)
    return [one for measured in newest.values() for one in measured]
