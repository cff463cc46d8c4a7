"""The parts of transformers outside its documented API.

Each test names the part that an update changed.
"""

import inspect

import torch
from transformers import FalconConfig, LlamaConfig, MixtralConfig, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.models.falcon import modeling_falcon
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from abq_core.models.transformers_internals import FalconAttention, FalconLinear, split_heads

CHECKED = "transformers_internals.py was checked with transformers 5.17 to 5.23"


def test_falcon_selects_its_attention_from_a_dictionary() -> None:
    classes = getattr(modeling_falcon, "FALCON_ATTENTION_CLASSES", None)
    assert isinstance(classes, dict) and classes.get("eager") is FalconAttention, (
        f"{CHECKED}: FALCON_ATTENTION_CLASSES no longer selects Falcon's attention"
    )


def test_falcon_attention_has_the_parts_that_the_subclass_uses() -> None:
    config = FalconConfig(hidden_size=64, num_attention_heads=4, multi_query=True)
    attention = FalconAttention(config, layer_idx=0)
    missing = [n for n in ("query_key_value", "dense", "layer_idx", "inv_norm_factor") if not hasattr(attention, n)]
    assert not missing, f"{CHECKED}: FalconAttention lacks {missing}"
    assert isinstance(attention.dense, FalconLinear), f"{CHECKED}: FalconAttention.dense is not a FalconLinear"
    query, key, value = split_heads(attention, torch.zeros(2, 3, 64 + 2 * 16))
    assert (query.shape, key.shape, value.shape) == ((2, 3, 4, 16), (2, 3, 1, 16), (2, 3, 1, 16)), (
        f"{CHECKED}: FalconAttention._split_heads returns another layout"
    )


def test_falcon_passes_the_arguments_that_the_subclass_takes() -> None:
    parameters = inspect.signature(FalconAttention.forward).parameters
    expected = {"hidden_states", "alibi", "attention_mask", "layer_past", "position_embeddings"}
    assert expected <= parameters.keys(), f"{CHECKED}: FalconAttention.forward has other parameters"


def test_the_eager_mask_is_additive() -> None:
    mask = eager_mask(1, 2, 2, config=LlamaConfig(), dtype=torch.float32)
    lowest = torch.finfo(torch.float32).min
    assert mask.tolist() == [[[[0.0, lowest], [0.0, 0.0]]]], f"{CHECKED}: eager_mask is not an additive float mask"


def test_fused_experts_have_the_layout_that_is_split() -> None:
    experts = MixtralExperts(MixtralConfig(hidden_size=8, intermediate_size=6, num_local_experts=3))
    shapes = {name: tuple(p.shape) for name, p in experts.named_parameters()}
    assert shapes == {"gate_up_proj": (3, 12, 8), "down_proj": (3, 8, 6)}, f"{CHECKED}: fused experts changed"
    assert callable(experts.act_fn), f"{CHECKED}: fused experts have no act_fn"


def test_a_pretrained_model_has_the_function_that_construction_replaces() -> None:
    assert callable(getattr(PreTrainedModel, "tie_weights", None)), (
        f"{CHECKED}: PreTrainedModel.tie_weights is gone; check whether building.py still needs its lock"
    )
