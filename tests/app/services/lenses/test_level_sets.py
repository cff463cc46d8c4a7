"""The service of level sets: one computation per linear, costs that are measured once, and limits."""

from pathlib import Path

import pytest

from abq_core.quantization.level_sets import LevelSetError
from app.services import ServiceError, Services, models


def test_formats_of_a_linear_are_compared_once(services: Services, tiny_llama: Path) -> None:
    service, place = services.lenses.level_sets, (str(tiny_llama), "W4A8", 1, "mlp.up_proj")
    frames = service.compare(*place, "-1 0 2")
    assert service.compare(*place, "-1 0 2") is frames and service.compare(*place) is not frames
    errors = frames["formats"].set_index(["format", "scale"])
    assert errors.loc[("own levels", "least error"), "levels"] == 3
    assert errors.loc[("uniform W4", "largest"), "bits"] == 4 + 40 / 64
    assert service.compare(str(tiny_llama), "W4A8g32", 1, "mlp.up_proj")["formats"]["bits"].min() == 2 + 2 * 40 / 64
    counts = frames["occupancy"].groupby(["format", "scale"])["count"].sum()
    assert (counts == 96 * 64).all()
    with pytest.raises(LevelSetError):
        service.compare(*place, "1")
    with pytest.raises(ServiceError, match="no linear"):
        service.compare(str(tiny_llama), "W4A8", 1, "nosuch")


def test_a_cost_is_measured_once_and_only_for_small_models(
    services: Services, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, ref = services.lenses.level_sets, str(tiny_llama)
    formats = {one.name: one for one in service.formats()}
    assert service.known_cost(ref, formats["NF4"], None) is None
    coarse, fine = (service.cost(ref, formats[name], None) for name in ("uniform W2", "NF4"))
    assert 0 < fine.kl_mean < coarse.kl_mean
    assert service.cost(ref, formats["NF4"], None) is fine is service.known_cost(ref, formats["NF4"], None)
    monkeypatch.setattr(models, "MOST_SIMULATED", 1000)
    with pytest.raises(ServiceError, match="at most 1,000"):
        service.cost(ref, formats["FP4 E2M1"], None)
