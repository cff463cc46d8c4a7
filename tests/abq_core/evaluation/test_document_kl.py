"""KL at every token of a document, against a pass over the document's beginning up to that token."""

from pathlib import Path

import numpy as np
import pytest
import torch

from abq_core.evaluation import document_kl as module
from abq_core.evaluation.document_kl import Windows, document_kl, reference_side
from abq_core.evaluation.perplexity import EvaluationError
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(5, 60, (45,), generator=torch.Generator().manual_seed(9))


def log_probabilities(model: LoadedModel, read: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return torch.log_softmax(model.model(torch.tensor([read]), use_cache=False).logits[0, -1].double(), -1).numpy()


@pytest.mark.parametrize("engine", ["simulated", "packed"])
@pytest.mark.parametrize("prefix", [(), (1,)])
def test_every_token_has_the_kl_of_its_window(
    base: LoadedModel, ids: torch.Tensor, engine: str, prefix: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 16)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 5 * base.vocabulary)
    windows = Windows.of(ids, prefix, base.context)
    model = rounded_model(base, Precision.parse("W3A8"), engine)  # type: ignore[arg-type]
    rows = document_kl(model, reference_side(base, windows), windows).set_index("position")
    assert list(rows.index) == list(range(0 if prefix else 1, 45))
    simulated = rounded_model(base, Precision.parse("W3A8"), "simulated")
    for position in (1, 7, 15, 16, 27, 44):
        start = next(start for start in (0, 12, 24, 29) if position < start + 16)
        read = [*prefix, *ids[start:position].tolist()]
        full, own = log_probabilities(base, read), log_probabilities(simulated, read)
        row = rows.loc[position]
        assert row["kl"] == pytest.approx(
            float((np.exp(full) * (full - own)).sum()), abs=2e-3 if engine == "packed" else 1e-4
        )
        assert row["full_probability"] == pytest.approx(np.exp(full[ids[position]]), rel=1e-3)
        assert row["full_top"] == full.argmax() and row["full_top_probability"] == pytest.approx(
            np.exp(full.max()), rel=1e-3
        )
        assert row["top_probability"] == pytest.approx(np.exp(own.max()), rel=0.05)


def test_a_short_document_is_one_window_and_full_precision_has_no_kl(base: LoadedModel, ids: torch.Tensor) -> None:
    windows = Windows.of(ids[:9], (), base.context)
    assert windows.segments.tolist() == [ids[:9].tolist()]
    assert document_kl(base, reference_side(base, windows), windows)["kl"].abs().max() < 1e-6
    with pytest.raises(EvaluationError, match="has 1 tokens; at least 2"):
        Windows.of(ids[:1], (), base.context)


def test_windows_fit_into_a_short_context(ids: torch.Tensor) -> None:
    windows = Windows.of(ids, (1,), 9)
    assert windows.segments.shape[1] == 9 and (windows.segments[:, 0] == 1).all()
    predicted = [position for _, first, last in windows.places for position in range(first, last)]
    assert predicted == list(range(45))
