"""The device that counts tensor memory without computing."""

import torch
from counted_device import DEVICE, CountedDevice


def test_live_and_peak_bytes_are_counted() -> None:
    with CountedDevice() as device:
        x = torch.empty(10, device=DEVICE)
        y = x + 1
        assert (device.live, device.peak) == (80, 80)
        del y
        assert (device.live, device.peak) == (40, 80)
        view = x[:5]
        assert device.live == 40
        del x, view
        assert (device.live, device.peak) == (0, 80)


def test_values_that_reach_the_host_are_invented() -> None:
    with CountedDevice() as device:
        x = torch.empty(4, device=DEVICE)
        assert x.cpu().tolist() == [1.0] * 4
        assert x.sum().item() == 1.0
        assert bool((x > 0).all())
        assert torch.zeros(4).copy_(x).tolist() == [1.0] * 4
        assert device.peak >= 16
