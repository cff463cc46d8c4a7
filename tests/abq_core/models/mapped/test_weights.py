"""Mapped files: values, pages that leave memory, and tensors at any address."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from abq_core.models.mapped.weights import MappedWeights

_MIB = 1 << 20


def resident_mib(path: Path) -> float:
    """Resident memory of the mappings of a file."""
    text = Path("/proc/self/smaps").read_text()
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.M)
    return sum(int(re.findall(r"^Rss:\s+(\d+)", part, re.M)[0]) for part in parts if str(path) in part) / 1024


def test_pages_are_read_when_they_are_used_and_released(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(
        {
            "a": torch.ones(8 * _MIB, dtype=torch.bfloat16),
            "b": torch.full((4, 3), 2.0),
            "i": torch.ones(3, dtype=torch.int64),
        },
        file,
    )
    weights = MappedWeights([file])
    assert set(weights.tensors) == {"a", "b"} and resident_mib(file) < 1
    module = nn.Module()
    module.weight = nn.Parameter(weights.tensors["a"], requires_grad=False)
    module.bias = nn.Parameter(torch.ones(3), requires_grad=False)
    for _ in range(2):
        assert module.weight.float().sum() == 8 * _MIB and resident_mib(file) > 15
        weights.release(module)
        assert resident_mib(file) < 1
    assert weights.holds(weights.tensors["b"]) and not weights.holds(module.bias)
    assert torch.equal(weights.tensors["b"], torch.full((4, 3), 2.0))


def test_values_at_an_odd_address_are_copied(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)  # an odd length
    file = tmp_path / "weights.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + torch.tensor([1.5, -2.0]).numpy().tobytes())
    weights = MappedWeights([file])
    assert weights.tensors["x"].tolist() == [1.5, -2.0] and not weights.holds(weights.tensors["x"])
