"""Evaluations that were stored, and those that were not."""

import pytest

from app.services import ServiceError, Services
from storage.jobs import Job


def test_losses_without_an_evaluation_are_a_sentence(finished: tuple[Services, Job], services: Services) -> None:
    stored, job = finished
    run, model = job.run_id, str(job.spec["model"])
    assert len(stored.evaluation.segment_losses(model, run)) == len(stored.evaluation.segment_losses(model, None, run))
    for missing in ((model, run), (model, None), (model, None, run)):
        with pytest.raises(ServiceError, match="Run: abq eval"):
            services.evaluation.segment_losses(*missing)
