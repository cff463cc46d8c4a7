"""The service of bit planes: real tokens, and places that do not exist."""

from pathlib import Path

import numpy as np
import pytest

from abq_core.precision import PrecisionError
from app.services import ServiceError, Services
from app.services.lenses.bit_planes import Place
from app.services.lenses.inputs import TOKENS


def test_a_product_is_with_the_input_of_the_token(services: Services, tiny_llama: Path) -> None:
    ref = str(tiny_llama)
    lens = services.lenses.bit_planes.read(ref, "W4A8", Place(1, "mlp.up_proj", row=9, token=3))
    inputs = services.lenses.inputs.of_block(ref, 1)
    assert len(inputs.tokens) == TOKENS and inputs is services.lenses.inputs.of_block(ref, 1)
    weight = services.registry.full(ref).model.model.layers[1].mlp.up_proj.weight[9].detach().double().numpy()
    expected = float(inputs.rows["mlp.up_proj"][3].double().numpy() @ weight)
    assert lens.product is not None and lens.product.full == pytest.approx(expected)
    other = services.lenses.bit_planes.read(ref, "W4A8", Place(1, "mlp.up_proj", row=9, token=4)).product
    assert other is not None and not np.isclose(other.full, expected)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place(2, "mlp.up_proj"), "There is no block 2: this model has the blocks 0 to 1"),
        (Place(0, "mlp.side_proj"), "There is no linear 'mlp.side_proj' in block 0"),
    ],
)
def test_a_place_that_does_not_exist_is_named(services: Services, tiny_llama: Path, place: Place, message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        services.lenses.bit_planes.read(str(tiny_llama), "W4A8", place)


def test_weights_of_16_bits_have_no_planes(services: Services, tiny_llama: Path) -> None:
    with pytest.raises(ServiceError, match="no bit planes"):
        services.lenses.bit_planes.read(str(tiny_llama), "W16A8", Place(0, "mlp.up_proj"))
    with pytest.raises(PrecisionError):
        services.lenses.bit_planes.read(str(tiny_llama), "W9A8", Place(0, "mlp.up_proj"))
