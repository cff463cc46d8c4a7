"""Register the project's attention with transformers, so that `attn_implementation="abq"` selects it."""

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.falcon.modeling_falcon import FALCON_ATTENTION_CLASSES

from abq_core.models.attention import ATTENTION, abq_attention
from abq_core.models.falcon import InterfaceFalconAttention


def register_attention() -> None:
    """Register "abq" for every supported family. Calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, abq_attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    FALCON_ATTENTION_CLASSES[ATTENTION] = InterfaceFalconAttention
