"""Safetensors headers that are hostile, damaged, or of quantized weights."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folder_cases import write_safetensors
from safetensors.torch import save_file

from abq_core.models.errors import ModelError, UnsafeModelError
from abq_core.models.files import WEIGHTS, check_weights
from abq_core.models.loading import load_model
from abq_core.models.safetensors_header import check_header


def test_hostile_headers_are_refused_at_once(folder: Path) -> None:
    for tensors, message in ((100_000, "header of 6,"), (25_000, "25,000 tensors")):
        entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        write_safetensors(folder / WEIGHTS, {f"t{i}": entry for i in range(tensors)})
        started = time.thread_time()  # CPU time of this thread only
        with pytest.raises(UnsafeModelError, match=message):
            load_model(str(folder))
        assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"t": 3},
        {"t": {"dtype": "F32"}},
        {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
        {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 16]}},
        {"t": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}},
        {"t": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "u": {"a": 1}},
    ],
)
def test_damaged_headers_are_named(folder: Path, header: object) -> None:
    write_safetensors(folder / WEIGHTS, header, bytes(8))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(str(folder))


def test_damaged_and_quantized_weights_are_named(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for content, message in (
        (whole[:-100], "damaged"),
        (whole[:50], "not a complete safetensors"),
        (b"", "not a complete safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ModelError, match=message):
            load_model(str(folder))
    save_file({"w": torch.zeros(4, 4, dtype=torch.int8)}, folder / WEIGHTS)
    with pytest.raises(ModelError, match="quantized already"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]}, "impossible size"),
        ({"dtype": "F32", "shape": [2.0, 2], "data_offsets": [0, 16]}, "impossible size"),
        ({"dtype": "F32", "shape": [True, 4], "data_offsets": [0, 16]}, "impossible size"),
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, "impossible size"),
        ({"dtype": "F32", "shape": [2**46], "data_offsets": [0, 2**48]}, "impossible size"),
        ({"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}, "damaged"),
    ],
)
def test_sizes_of_tensors_are_bounded(folder: Path, entry: dict[str, Any], message: str) -> None:
    raw = json.dumps({"t": entry}).encode()
    (folder / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(16))
    with pytest.raises(ModelError, match=message):
        check_weights(folder)


def test_a_number_of_a_million_digits_is_refused(folder: Path) -> None:
    raw = b'{"t": {"dtype": "F32", "shape": [' + b"9" * 1_000_000 + b'], "data_offsets": [0, 4]}}'
    (folder / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(ModelError, match="cannot be read"):
        check_weights(folder)


def test_the_header_of_a_valid_file_gives_its_floating_point_values(folder: Path) -> None:
    values = {
        "w": torch.zeros(3, 4),
        "b": torch.zeros(5, dtype=torch.bfloat16),
        "mask": torch.zeros(2, dtype=torch.bool),
    }
    save_file(values, folder / WEIGHTS)
    assert check_header(folder / WEIGHTS) == check_weights(folder) == 17
