"""What the method must know of a family of models, one table row each: which norm feeds which linears, which linear
feeds which. Blocks themselves stay transformers' own.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


class ArchitectureError(ValueError):
    """A model in which no stack of blocks can be found."""


@dataclass(frozen=True)
class Architecture:
    """Module names are relative to a block. Empty pairs: nothing is balanced there.

    norms: norm -> the linears that read it.  chain: linear -> the linear that reads its output, channel by channel.
    value_output: value and output projection (one balance value per kv channel).  query_key: query and key projection,
    `rotary` where the two halves of a head are rotated together.  compensated: the linear that gets the rank-1
    compensation.  gain_offset: what the norm adds to its weight (1 for Gemma).
    """

    family: str
    blocks: str | None = None
    norms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    chain: tuple[tuple[str, str], ...] = ()
    value_output: tuple[str, str] | None = None
    query_key: tuple[str, str] | None = None
    rotary: bool = True
    compensated: str | None = None
    gain_offset: float = 0.0

    @property
    def known(self) -> bool:
        """False for a family without balance pairs of its own."""
        return bool(self.norms)


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")


def _llama_like(family: str, *, query_key: bool = True, gain: float = 0.0) -> Architecture:
    return Architecture(
        family,
        "model.layers",
        norms=(("input_layernorm", _QKV), ("post_attention_layernorm", _GATE_UP)),
        chain=(("mlp.up_proj", "mlp.down_proj"),),
        value_output=("self_attn.v_proj", "self_attn.o_proj"),
        query_key=(_QKV[0], _QKV[1]) if query_key else None,
        compensated="mlp.down_proj",
        gain_offset=gain,
    )


_OPT = Architecture(
    "opt",
    "model.decoder.layers",
    norms=(("self_attn_layer_norm", _QKV), ("final_layer_norm", ("fc1",))),
    chain=(("fc1", "fc2"),),  # ReLU lets a positive factor through
    value_output=("self_attn.v_proj", "self_attn.out_proj"),
    query_key=(_QKV[0], _QKV[1]),
    rotary=False,
    compensated="fc2",
)
_TABLE = {
    row.family: row
    for row in (
        _llama_like("llama"),
        _llama_like("mistral"),
        _llama_like("qwen2"),
        _llama_like("qwen3", query_key=False),  # a norm stands between projection and dot product
        _llama_like("gemma", gain=1.0),
        _OPT,
    )
}


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The table row of a model; for a family that has none, one without pairs."""
    config = model.config
    row = _TABLE.get(config.model_type)
    if row is None:
        return Architecture(config.model_type)
    if row is _OPT and not config.do_layer_norm_before:  # a norm after the residual sum feeds the residual too
        return Architecture("opt", _OPT.blocks, chain=_OPT.chain, value_output=_OPT.value_output, compensated="fc2")
    return row


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of transformer blocks: where the table says, else the longest list of modules."""
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
