"""A run that was exported and imported again is the run."""

from pathlib import Path

import pytest
from app_cases import SpecMaker, settings_in, work_on

from app.services import Services, open_services
from app.services.evaluation import EvaluationText


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return open_services(settings_in(tmp_path / "data"))


@pytest.mark.parametrize("precision", ["W4A8", "W2*A8", "W3A16g32"])
def test_an_export_is_imported_as_the_same_model(
    services: Services, tiny_spec: SpecMaker, tmp_path: Path, precision: str
) -> None:
    """Activations with a zero point per token and scales in float16 are the only differences of computation."""
    spec = tiny_spec(precision=precision, method="rtn")
    run = work_on(services, services.jobs.submit(spec)).run_id
    exported = services.exports.export(run, "compressed-tensors", tmp_path / "export")
    job = work_on(services, services.imports.submit(str(tmp_path / "export"), spec.model))
    assert job.state == "succeeded", job.error
    text = EvaluationText(segments=4, seq_len=32)
    ours, theirs = (services.evaluation.evaluate(one, text) for one in (run, job.run_id))
    assert theirs.perplexity == pytest.approx(ours.perplexity, rel=2e-3)
    assert theirs.kl_mean == pytest.approx(ours.kl_mean, rel=0.05)
    assert exported.bytes > 0 and theirs.method == "imported"
