"""Limits on sizes in a config."""

import json
from pathlib import Path
from typing import Any

import pytest

from abq_core.models.checks.config_fields import check_sizes
from abq_core.models.errors import ModelError, UnsafeModelError
from abq_core.models.files import check_settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 5000}, "num_local_experts 5000"),
        ({"num_experts": 1000, "num_hidden_layers": 500}, "500,000 experts"),
        ({"num_hidden_layers": 513}, "num_hidden_layers 513"),
    ],
)
def test_the_numbers_of_blocks_and_experts_are_bounded(folder: Path, changes: dict[str, Any], message: str) -> None:
    original = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**original, **changes}))
    with pytest.raises(ModelError, match=message):
        check_settings(folder)


@pytest.mark.parametrize("value", [-1, 1e9, float("inf"), 10**400])
def test_sizes_outside_the_limits_are_refused(value: float) -> None:
    with pytest.raises(UnsafeModelError, match="here has hidden_size"):
        check_sizes({"hidden_size": value}, "here")


def test_other_keys_and_types_are_left_to_transformers() -> None:
    check_sizes({"rope_theta": 1e12, "hidden_size": "wide", "head_dim": None, "vocab_size": 1 << 24}, "here")
