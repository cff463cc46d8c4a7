"""Model sizes read without weights."""

from dataclasses import replace
from pathlib import Path

from family_cases import family_folder

from abq_core.models.loading import load_model
from abq_core.models.shape import model_shape, shape_of


def test_the_shape_equals_the_loaded_models(tiny_llama: Path, tiny_opt: Path) -> None:
    for path in (tiny_llama, tiny_opt):
        shape, model = model_shape(str(path)), load_model(str(path)).model
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        assert (shape.blocks, shape.hidden, shape.heads, shape.vocabulary, shape.context) == (2, 64, 4, 300, 128)
        assert shape.intermediate == 96
    assert model_shape(str(tiny_llama)).kv_heads == 2
    assert model_shape(str(tiny_llama)).linears == {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (32, 64),
        "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (96, 64),
        "mlp.up_proj": (96, 64),
        "mlp.down_proj": (64, 96),
    }


def test_a_model_with_dense_blocks_among_experts_has_exceptions(tiny_llama: Path, tmp_path: Path) -> None:
    shape = model_shape(str(family_folder("qwen3_moe", tmp_path, tiny_llama)))  # block 0 is dense
    assert shape.intermediate == 32
    assert list(shape.exceptions) == [1]
    assert shape.block_linears(0) == shape.linears and "mlp.up_proj" in shape.linears
    assert shape.block_linears(1)["mlp.experts.3.up_proj"] == (32, 64)


def test_a_shape_needs_no_weights(tiny_llama: Path) -> None:
    config = load_model(str(tiny_llama)).model.config
    assert replace(shape_of("renamed", config), ref=str(tiny_llama)) == model_shape(str(tiny_llama))
