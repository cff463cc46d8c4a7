"""Which tensor of a GGUF file holds a parameter of transformers' model, and how it is stored there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abq_core.models.errors import ModelError
from abq_core.models.gguf.config import EXTRA_TENSORS
from abq_core.models.gguf.header import Header
from abq_core.models.gguf.header import Tensor as StoredTensor
from abq_core.models.gguf.weights import read_tensor

_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INSIDE = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA3 = _INSIDE | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


@dataclass(frozen=True)
class Layout:
    """How a family's parameters are stored. heads, kv_heads: of attention."""

    family: str
    heads: int
    kv_heads: int

    def stored_name(self, parameter: str) -> str | None:
        """The name in the file of a parameter of the transformers model; None if the file has no place for it."""
        if parameter in _OUTSIDE:
            return _OUTSIDE[parameter]
        found = _BLOCK.fullmatch(parameter)
        inside = (_GEMMA3 if self.family == "gemma3_text" else _INSIDE).get(found[2]) if found else None
        return f"blk.{found[1]}.{inside}.{found[3]}" if found and inside else None

    def restore(self, name: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> Tensor:
        """Undo what the conversion to GGUF changed in the tensor called `name` in the file.

        The rows of LLaMA's query and key come in pairs that RoPE rotates, and in halves in transformers. Gemma's norms
        are stored with the 1 that the model adds to them.
        """
        if self.family == "llama" and ".attn_q." in name:
            values = _in_halves(values, self.heads)
        elif self.family == "llama" and ".attn_k." in name:
            values = _in_halves(values, self.kv_heads)
        elif self.family == "gemma3_text" and name.endswith("norm.weight"):
            values = values - np.float32(1)
        return torch.from_numpy(values)

    def stored_rows(self, name: str, rows: int) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
        """The row of the parameter at each row of the tensor called `name` in the file; None if they are the same.

        The inverse of what `restore` does to rows.
        """
        heads = self.heads if ".attn_q." in name else self.kv_heads if ".attn_k." in name else None
        if self.family != "llama" or heads is None:
            return None
        return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def parameters_of(header: Header, layout: Layout, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The parameters of a transformers model in float32, by name; tied ones are left out.

    wanted: shapes by name. Raises what `stored_tensors` raises.
    """
    return {
        name: layout.restore(tensor.name, read_tensor(header, tensor))
        for name, tensor in stored_tensors(header, layout, wanted).items()
    }


def stored_tensors(header: Header, layout: Layout, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    """Where the file stores each parameter of a transformers model, by the parameter's name.

    wanted: shapes by name. Raises ModelError if the file lacks one of them, has it in another shape, or has tensors
    that no parameter is made of.
    """
    stored = {name: stored_name for name in wanted if (stored_name := layout.stored_name(name)) is not None}
    missing = sorted(set(wanted) - set(stored)) or sorted(set(stored.values()) - set(header.tensors))
    if missing:
        raise ModelError(
            f"{header.file} lacks the weights of {', '.join(missing[:3])} ({len(missing)} in all). Download it again."
        )
    unknown = sorted(set(header.tensors) - set(stored.values()) - EXTRA_TENSORS)
    if unknown:
        raise ModelError(
            f"{header.file} has the tensor '{unknown[0]}' ({len(unknown)} such), which {layout.family} does not use. "
            "Use the model's original folder."
        )
    for name, stored_name in stored.items():
        if (found := header.tensors[stored_name].shape) != wanted[name]:
            raise ModelError(
                f"{header.file} has '{stored_name}' in the shape {found}, but its metadata describes {wanted[name]}. "
                "Download it again."
            )
    return {name: header.tensors[stored_name] for name, stored_name in stored.items()}


def _in_halves(
    values: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", heads: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Reorder the rows of every head from pairs (0, n/2, 1, n/2 + 1, ...) to halves (0, 1, ..., n/2, ...)."""
    by_head = values.reshape(heads, len(values) // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(by_head.swapaxes(1, 2)).reshape(values.shape)
