"""Fields of a config: those of the family are passed on, within limits."""

import json
from pathlib import Path
from typing import Any

import pytest
from family_cases import CONFIGS
from transformers import CONFIG_MAPPING

from abq_core.models.checks.config_fields import check_fields, check_sizes
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


@pytest.mark.parametrize("case", CONFIGS)
def test_every_field_that_a_family_uses_is_passed_on(case: str) -> None:
    original = CONFIGS[case]()
    stored = json.loads(original.to_json_string(use_diff=False))
    known = check_fields(stored, case)
    assert CONFIG_MAPPING[original.model_type].from_dict(known).to_dict() == original.to_dict()


OLDER: dict[str, dict[str, Any]] = {
    "gpt_neox": {"rotary_pct": 0.25, "rotary_emb_base": 10000, "bos_token_id": 0, "torch_dtype": "float16"},
    "llama": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "phi3": {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.1] * 48}},
    "gemma3_text": {"rope_local_base_freq": 10000, "sliding_window_pattern": 6, "eos_token_id": [1, 106]},
    "phi": {"partial_rotary_factor": 0.4, "rope_theta": 1e4, "pad_token_id": -1},
}


@pytest.mark.parametrize("family", OLDER)
def test_fields_of_older_files_are_passed_on(family: str) -> None:
    config = {"model_type": family, "id2label": {"0": "LABEL_0"}, "num_labels": 2, "auto_saved": 1, **OLDER[family]}
    known = check_fields(config, "here")
    assert {key: known[key] for key in OLDER[family]} == OLDER[family]
    assert not known.keys() & {"id2label", "num_labels", "auto_saved"}
