"""The service of the transform: one computation per linear and block size, and times that are kept."""

from pathlib import Path

import pytest

from app.services import ServiceError, Services


def test_a_linear_is_compared_once_per_block_size(services: Services, tiny_llama: Path) -> None:
    service, place = services.lenses.transform, (str(tiny_llama), "W4A4", 1, "mlp.up_proj")
    frames = service.compare(*place)
    assert service.compare(*place) is frames and service.compare(*place, 16) is not frames
    assert set(frames["rows"]["block"]) == {1, 16, 32, 64} and set(frames["channels"]["block"]) == {1, 64}
    assert set(service.compare(*place, 16)["channels"]["block"]) == {1, 16}
    assert set(service.compare(*place, 48)["channels"]["block"]) == {1, 64}
    tokens = services.lenses.inputs.of_block(str(tiny_llama), 1).tokens
    assert frames["rows"].query("kind == 'activation' and block == 1")["row"].tolist() == list(range(len(tokens)))


@pytest.mark.parametrize(
    ("block", "tensor", "message"),
    [(7, "mlp.up_proj", "There is no block 7"), (0, "mlp.side_proj", "There is no linear 'mlp.side_proj'")],
)
def test_a_place_that_does_not_exist_is_named(
    services: Services, tiny_llama: Path, block: int, tensor: str, message: str
) -> None:
    with pytest.raises(ServiceError, match=message):
        services.lenses.transform.compare(str(tiny_llama), "W4A4", block, tensor)
    with pytest.raises(ServiceError, match=message):
        services.lenses.transform.time(str(tiny_llama), "W4A4", block, tensor)


def test_times_are_measured_once_and_need_quantized_weights(services: Services, tiny_llama: Path) -> None:
    service, place = services.lenses.transform, (str(tiny_llama), "W4A4", 0, "mlp.up_proj")
    assert service.known_times(*place) == []
    times = service.time(*place)
    assert [one.tokens for one in times] == [1, 64] and service.time(*place) is times is service.known_times(*place)
    with pytest.raises(ServiceError, match=r"keeps the weights of mlp\.up_proj in 16 bits"):
        service.time(str(tiny_llama), "W16A8", 0, "mlp.up_proj")
