"""The table of supported architectures: how norms and linears feed each other.

Blocks remain transformers' modules; `calibration/balance.py` applies the table to their weights. To add a family, add a
row to `_TABLE` and a config to `tests/cases/family_cases.py`; `inference/block_parts.py` makes it decode faster.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

Part = Literal["query", "key", "value", "up"]


class ArchitectureError(ValueError):
    """A model without a list of transformer blocks."""


@dataclass(frozen=True)
class Rows:
    """Output rows of a linear: all rows, or one part of a fused projection.

    part: query, key or value of a fused QKV projection; up: the second half of a fused gate-up projection.
    by_head: the fused rows are grouped by kv head (its queries, key, value); otherwise all queries come first, then all
    keys, then all values.
    """

    linear: str
    part: Part | None = None
    by_head: bool = False

    def __str__(self) -> str:
        return self.linear if self.part is None else f"{self.linear}[{self.part}]"


@dataclass(frozen=True)
class Architecture:
    """One row of the table: the balance pairs of a family. Without pairs, nothing is balanced.

    Module names are relative to a block; `*` stands for every expert.
    blocks: path of the list of blocks.
    norms: norm -> its consumers (linears and routers); a pair is used if the block has all of its modules.
    chain: rows -> the linear that consumes them, channel by channel.
    value_output: value rows and output projection (one balance value per kv channel).
    query_key: query and key rows.
    compensated: the linear that gets the rank-1 compensation.
    gain_offset: constant that the norms add to their weight (1 for Gemma).
    """

    family: str
    blocks: str | None = None
    norms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    chain: tuple[tuple[Rows, str], ...] = ()
    value_output: tuple[Rows, str] | None = None
    query_key: tuple[Rows, Rows] | None = None
    compensated: str | None = None
    gain_offset: float = 0.0

    @property
    def has_pairs(self) -> bool:
        """Whether the family has balance pairs."""
        return bool(self.norms or self.chain or self.value_output)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_QUERY_KEY = (Rows(_QKV[0]), Rows(_QKV[1]))
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
_UP_DOWN = (Rows("mlp.up_proj"), "mlp.down_proj")
_EXPERTS_GATE_UP = ("mlp.experts.*.gate_proj", "mlp.experts.*.up_proj")
_EXPERTS_UP_DOWN = (Rows("mlp.experts.*.up_proj"), "mlp.experts.*.down_proj")
_ROUTER = "mlp.gate"


def _llama_like(
    config: Any, *, query_key: bool = True, gain: float = 0.0, before_mlp: str = "post_attention_layernorm"
) -> Architecture:
    return Architecture(
        config.model_type,
        "model.layers",
        norms=(("input_layernorm", _QKV), (before_mlp, _GATE_UP)),
        chain=(_UP_DOWN,),
        value_output=(Rows("self_attn.v_proj"), "self_attn.o_proj"),
        query_key=_QUERY_KEY if query_key else None,
        compensated="mlp.down_proj",
        gain_offset=gain,
    )


def _mixture(config: Any, *, query_key: bool = True, shared: tuple[str, ...] = ()) -> Architecture:
    """LLaMA's attention with experts; single blocks may have a dense MLP instead."""
    return Architecture(
        config.model_type,
        "model.layers",
        norms=(
            ("input_layernorm", _QKV),
            ("post_attention_layernorm", (*_EXPERTS_GATE_UP, _ROUTER, *shared)),
            ("post_attention_layernorm", _GATE_UP),
        ),
        chain=(_EXPERTS_UP_DOWN, (Rows("mlp.shared_expert.up_proj"), "mlp.shared_expert.down_proj"), _UP_DOWN),
        value_output=(Rows("self_attn.v_proj"), "self_attn.o_proj"),
        query_key=_QUERY_KEY if query_key else None,
        compensated="mlp.down_proj",
    )


def _qwen2_moe(config: Any) -> Architecture:
    expert = "mlp.shared_expert"
    return _mixture(config, shared=(f"{expert}.gate_proj", f"{expert}.up_proj", "mlp.shared_expert_gate"))


def _phi3(config: Any) -> Architecture:
    fused, gate_up = "self_attn.qkv_proj", "mlp.gate_up_proj"
    return Architecture(
        config.model_type,
        "model.layers",
        norms=(("input_layernorm", (fused,)), ("post_attention_layernorm", (gate_up,))),
        chain=((Rows(gate_up, "up"), "mlp.down_proj"),),
        value_output=(Rows(fused, "value"), "self_attn.o_proj"),
        query_key=(Rows(fused, "query"), Rows(fused, "key")),
        compensated="mlp.down_proj",
    )


def _phi(config: Any) -> Architecture:
    return Architecture(
        config.model_type,
        "model.layers",
        norms=(("input_layernorm", (*_QKV, "mlp.fc1")),),  # attention and MLP are parallel
        chain=_activation_chain(config.hidden_act, "mlp.fc1", "mlp.fc2"),
        value_output=(Rows("self_attn.v_proj"), "self_attn.dense"),
        query_key=None if config.qk_layernorm else _QUERY_KEY,
        compensated="mlp.fc2",
    )


def _opt(config: Any) -> Architecture:
    pre_norm = config.do_layer_norm_before  # a norm after the residual sum also feeds the residual
    return Architecture(
        config.model_type,
        "model.decoder.layers",
        norms=(("self_attn_layer_norm", _QKV), ("final_layer_norm", ("fc1",))) if pre_norm else (),
        chain=_activation_chain(config.activation_function, "fc1", "fc2"),
        value_output=(Rows("self_attn.v_proj"), "self_attn.out_proj"),
        query_key=_QUERY_KEY,
        compensated="fc2",
    )


def _fused_by_head(config: Any, blocks: str, attention: str, act: str, norms: tuple[str, str]) -> Architecture:
    """GPT-NeoX and Falcon: a fused QKV projection.

    norms: of attention and MLP, equal if one norm feeds both.
    """
    fused, mlp_up = f"{attention}.query_key_value", "mlp.dense_h_to_4h"
    one_norm = norms[0] == norms[1]
    return Architecture(
        config.model_type,
        blocks,
        norms=((norms[0], (fused, mlp_up)),) if one_norm else ((norms[0], (fused,)), (norms[1], (mlp_up,))),
        chain=_activation_chain(act, mlp_up, "mlp.dense_4h_to_h"),
        value_output=(Rows(fused, "value", by_head=True), f"{attention}.dense"),
        query_key=(Rows(fused, "query", by_head=True), Rows(fused, "key", by_head=True)),
        compensated="mlp.dense_4h_to_h",
    )


def _gpt_neox(config: Any) -> Architecture:
    norms = ("input_layernorm", "post_attention_layernorm")
    return _fused_by_head(config, "gpt_neox.layers", "attention", config.hidden_act, norms)


def _falcon(config: Any) -> Architecture:
    if config.new_decoder_architecture and config.num_ln_in_parallel_attn != 1:
        norms = ("ln_attn", "ln_mlp")
    elif config.new_decoder_architecture or config.parallel_attn:
        norms = ("input_layernorm", "input_layernorm")
    else:
        norms = ("input_layernorm", "post_attention_layernorm")
    return _fused_by_head(config, "transformer.h", "self_attention", config.activation, norms)


def _activation_chain(activation: str, first: str, second: str) -> tuple[tuple[Rows, str], ...]:
    """The chain through an activation: a positive factor commutes with ReLU only."""
    return ((Rows(first), second),) if activation == "relu" else ()


_TABLE: Mapping[str, Callable[[Any], Architecture]] = {
    "falcon": _falcon,
    "gemma": lambda c: _llama_like(c, gain=1.0),
    "gemma2": lambda c: _llama_like(c, gain=1.0, before_mlp="pre_feedforward_layernorm"),
    # Qwen3 and Gemma 3 normalize queries and keys between projection and dot product
    "gemma3_text": lambda c: _llama_like(c, gain=1.0, before_mlp="pre_feedforward_layernorm", query_key=False),
    "gpt_neox": _gpt_neox,
    "llama": _llama_like,
    "mistral": _llama_like,
    "mixtral": _mixture,
    "opt": _opt,
    "phi": _phi,
    "phi3": _phi3,
    "qwen2": _llama_like,
    "qwen2_moe": _qwen2_moe,
    "qwen3": lambda c: _llama_like(c, query_key=False),
    "qwen3_moe": lambda c: _mixture(c, query_key=False),
}
SUPPORTED_FAMILIES = frozenset(_TABLE)
# Families whose norms are RMS norms that linears alone read: a rotation of the residual stream can be folded into them.
# Gemma 2 and 3 also have norms in front of the residual sum.
FOLDS_ROTATIONS = frozenset(
    {"gemma", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}
)
PARTLY_ROTATED = frozenset({"gpt_neox", "phi", "phi3"})  # by RoPE: families that use `partial_rotary_factor`


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The table row of a model; for a family that is not in the table, a row without pairs."""
    config = model.config
    family = getattr(config, "base_model_type", config.model_type)  # the first is that of the project's own format
    row = _TABLE.get(family)
    return Architecture(family) if row is None else row(config)


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The list of transformer blocks: at the table's path, otherwise the longest ModuleList.

    Raises ArchitectureError if the model has no ModuleList.
    """
    path = architecture_of(model).blocks
    if path is not None:
        found = model.get_submodule(path)
        if isinstance(found, nn.ModuleList):
            return found
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ArchitectureError(
            f"{type(model).__name__} has no list of blocks, so it cannot be calibrated block by block."
        )
    return max(lists, key=len)
