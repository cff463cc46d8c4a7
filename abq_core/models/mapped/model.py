"""Build a transformers model around mapped weights, without reading or copying them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from abq_core.models.attention.function import ATTENTION
from abq_core.models.building import use_plain_linears
from abq_core.models.files import GENERATION_CONFIG
from abq_core.models.mapped.modules import keep_stored

# How the names of checkpoints differ from those of the model's modules, by family
_RENAMED = {
    "gpt_neox": ((r"^lm_head\.", "embed_out."),),
    "mixtral": (
        (r"\.mlp\.experts\.(\d+)\.gate_proj\.", r".block_sparse_moe.experts.\1.w1."),
        (r"\.mlp\.experts\.(\d+)\.up_proj\.", r".block_sparse_moe.experts.\1.w3."),
        (r"\.mlp\.experts\.(\d+)\.down_proj\.", r".block_sparse_moe.experts.\1.w2."),
        (r"\.mlp\.gate\.", ".block_sparse_moe.gate."),
    ),
}

_KEEPING = (nn.Linear, nn.Embedding)
_KEPT = (torch.bfloat16, torch.float16)


def mapped_model(config: Any, tensors: Mapping[str, Tensor], folder: Path) -> PreTrainedModel | None:
    """The model of a config with these tensors as its parameters, in eval mode.

    16-bit weights of linears and embeddings keep their dtype; everything else becomes float32. folder: with the
    generation config. Returns None if the tensors are not named after the model's modules, or are incomplete:
    transformers must convert them or report them.
    """
    with _EmptyOnMeta():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation=ATTENTION, dtype=torch.float32, trust_remote_code=False
        )
        use_plain_linears(model)
    new: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tensor = tensors.get(_stored_name(name, config.model_type))
        if tensor is None:  # a tied weight is stored once
            continue
        tied = new.get(id(parameter))
        if tensor.shape != parameter.shape or (tied is not None and not torch.equal(tied, tensor)):
            return None
        if tied is None:
            new[id(parameter)] = nn.Parameter(tensor, requires_grad=False)
    if not _assign(model, new) or any(buffer.is_meta for buffer in model.buffers()):
        return None
    keep_stored(model)
    if (folder / GENERATION_CONFIG).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()


class _EmptyOnMeta(TorchFunctionMode):
    """Put what `torch.empty` creates on the meta device: weights, whose values are set later, but not buffers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, on the meta device if it is `torch.empty`."""
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)


def _stored_name(name: str, family: str) -> str:
    for pattern, replacement in _RENAMED.get(family, ()):
        name = re.sub(pattern, replacement, name)
    return name


def _assign(model: nn.Module, new: Mapping[int, nn.Parameter]) -> bool:
    """Set the parameters by the id of those they replace. Returns False if one is missing."""
    owned = [
        (module, name, id(parameter))
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    if not all(key in new for _, _, key in owned):
        return False
    converted = {key for module, name, key in owned if name != "weight" or type(module) not in _KEEPING}
    final = {key: _float32(new[key]) if key in converted or new[key].dtype not in _KEPT else new[key] for key in new}
    for module, name, key in owned:
        setattr(module, name, final[key])
    return True


def _float32(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().float(), requires_grad=False)
