"""Devices by name: which ones this machine has."""

import re

import torch

from abq_core.models.errors import ModelError

_NAME = re.compile(r"cpu|cuda(:(?P<index>\d{1,4}))?", re.ASCII)


def check_name(name: str) -> None:
    """Check that `name` is cpu, cuda or cuda:N. Raises ModelError."""
    if _NAME.fullmatch(name) is None:
        raise ModelError(f"The device {name[:40]!r} is not supported. Use cpu, cuda or cuda:N.")


def usable_device(name: str) -> torch.device:
    """The device with this name. Raises ModelError if this machine does not have it."""
    check_name(name)
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise ModelError(f"The device '{name}' cannot be used: torch finds no GPU on this machine. Use cpu.")
    index, count = torch.device(name).index or 0, torch.cuda.device_count()
    if index >= count:
        raise ModelError(
            f"The device '{name}' cannot be used: this machine has {count} GPU{'s' if count > 1 else ''}, numbered "
            "from 0. Use a smaller number."
        )
    return torch.device(name)
