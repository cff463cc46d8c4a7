"""Register the project's attention: `attn_implementation="abq"` then selects it."""

from transformers import AttentionInterface, AttentionMaskInterface

from abq_core.models.attention.function import ATTENTION, abq_attention
from abq_core.models.falcon import InterfaceFalconAttention
from abq_core.models.transformers_internals import eager_mask, register_falcon


def register_attention() -> None:
    """Register "abq" for every supported family. Safe to call more than once."""
    AttentionInterface.register(ATTENTION, abq_attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    register_falcon(ATTENTION, InterfaceFalconAttention)
