"""Load a model from a reference, after checking its files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from abq_core.mix import ModelPrecision
from abq_core.models.architectures import blocks_of
from abq_core.models.attention.function import ATTENTION
from abq_core.models.building import checked_files, empty_model, parameter_count, read_config, use_plain_linears
from abq_core.models.checks.weight_values import check_values
from abq_core.models.devices import usable_device
from abq_core.models.errors import ModelError
from abq_core.models.files import check_config, check_weights, tokenizer_ids, weight_files
from abq_core.models.gguf.folder import header_in
from abq_core.models.gguf.header import Header
from abq_core.models.gguf.tensor_names import Layout, parameters_of
from abq_core.models.mapped.freed_memory import return_freed_memory
from abq_core.models.mapped.lazy_block import LazyBlock, built
from abq_core.models.mapped.model import mapped_model
from abq_core.models.mapped.modules import converted_copy, has_stored
from abq_core.models.mapped.weights import MAPPED_BYTES, MappedWeights
from abq_core.models.reference import model_folder
from abq_core.models.tokenizer import load_tokenizer
from abq_core.precision import FULL


class Decoder(Protocol):
    """A decode step that runs faster than transformers' modules.

    kv_bits: bits of K and V in its cache, or None.
    """

    kv_bits: int | None

    def hidden(self, token: int, cache: Any) -> Tensor:
        """Append one token to a `PreallocatedCache` that is not empty.

        Returns the last hidden state, (hidden,).

        Raises CacheFullError.
        """
        ...


@dataclass
class LoadedModel:
    """A model ready for inference: eval mode, no gradients.

    precision: FULL, unless `inference.runtime` quantized the model.  decoder: the fast decode step of a quantized
    model, or None.  weights: the mapped checkpoint that the parameters are part of, or None if they are in memory.
    """

    ref: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    precision: ModelPrecision
    decoder: Decoder | None = None
    weights: MappedWeights | None = None

    @property
    def context(self) -> int:
        """The largest number of tokens that the model accepts."""
        return int(self.model.config.max_position_embeddings)

    @property
    def vocabulary(self) -> int:
        """The number of logits per token."""
        return int(self.model.get_output_embeddings().out_features)

    @contextmanager
    def block(self, index: int, device: torch.device | None = None) -> Iterator[nn.Module]:
        """One block that computes in float32 on `device` (by default the model's), while the context is open.

        A block that is stored in 16 bits, elsewhere or not built yet is made for the context; the pages of a mapped one
        leave memory at its end. Drop every reference to the block when the context ends.
        """
        stored = blocks_of(self.model)[index]
        block = built(stored)
        target = device or self.model.device
        if has_stored(block) or any(parameter.device != target for parameter in block.parameters()):
            block = converted_copy(block, target)
        yield block
        if self.weights is not None:
            self.weights.release(stored)
        if self.weights is not None or isinstance(stored, LazyBlock):
            return_freed_memory()

    def hidden(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Last hidden states, (batch, tokens, hidden), of ids (batch, tokens) int64.

        Reads and extends `cache` if it is given.
        """
        ids = ids.to(self.model.device)
        output = self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        return output.last_hidden_state

    def logits(self, hidden: Tensor, head: nn.Module | None = None) -> Tensor:
        """Logits, (..., vocabulary) float32, of last hidden states (..., hidden).

        Separate from `hidden`, so that the logits of long texts can be computed in parts. head: from `float_head`, by
        default the model's own.
        """
        logits: Tensor = (head or self.model.get_output_embeddings())(hidden).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def float_head(self) -> nn.Module:
        """The LM head for many calls of `logits`: in float32 if it is stored in 16 bits, otherwise the model's own."""
        head = self.model.get_output_embeddings()
        return converted_copy(head, self.model.device) if has_stored(head) else head


def load_model(ref: str, device: str = "cpu", mapped_bytes: int = MAPPED_BYTES) -> LoadedModel:
    """Load "builtin", a folder, a .gguf file or a hub id "org/name[/file.gguf][@revision]". It computes in float32.

    On the CPU the weights of a safetensors checkpoint of at least `mapped_bytes` stay in its files, memory-mapped, in
    their dtype; other models are converted to float32. The files are checked first.

    Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    target = usable_device(device)
    folder = model_folder(ref)
    check_config(folder)
    check_values(weight_files(folder))
    with checked_files(ref, folder) as links:
        return _load(ref, folder, links, target, mapped_bytes)


def _load(ref: str, folder: Path, links: Path, device: torch.device, mapped_bytes: int) -> LoadedModel:
    """Load the checked files of `folder` through the folder of links that `checked_files` made."""
    config = read_config(links)
    empty = empty_model(config)
    check_complete(ref, parameter_count(empty), check_weights(folder))
    header, model, weights = header_in(folder), None, None
    if header is None and device.type == "cpu" and _file_bytes(folder) >= mapped_bytes:
        weights = MappedWeights(weight_files(folder))
        model = mapped_model(config, weights.tensors, links)
    if model is None:
        model, weights = _converted(ref, config, empty, links, header).to(device), None
    tokenizer = load_tokenizer(links)
    tokenizer.name_or_path = ref
    loaded = LoadedModel(ref, model.eval().requires_grad_(False), tokenizer, FULL, weights=weights)
    largest = max([0, *tokenizer.get_vocab().values()])
    check_vocabulary(ref, max(len(tokenizer), largest + 1), loaded.vocabulary)
    check_vocabulary(ref, tokenizer_ids(folder), loaded.vocabulary)
    model.config.name_or_path = ref
    tokenizer.model_max_length = min(tokenizer.model_max_length, loaded.context)
    return loaded


def _file_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in weight_files(folder))


def _converted(ref: str, config: Any, empty: nn.Module, links: Path, header: Header | None) -> PreTrainedModel:
    """The model in float32, loaded by transformers. header: of a GGUF file.

    Raises ModelError for missing or misshapen weights.
    """
    family = cast("type[PreTrainedModel]", type(empty))
    model, report = family.from_pretrained(
        links if header is None else None,
        state_dict=None if header is None else _gguf_parameters(header, empty, config),
        config=config,
        dtype=torch.float32,
        attn_implementation=ATTENTION,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise ModelError(
            f"'{ref}' lacks the weights of {', '.join(missing[:3])} ({len(missing)} in all). Download it again, or "
            "save it with save_pretrained."
        )
    use_plain_linears(model)
    return model


def _gguf_parameters(header: Header, empty: torch.nn.Module, config: Any) -> dict[str, Tensor]:
    """The parameters of a model from a GGUF file. Raises ModelError if it does not have exactly those of the config."""
    wanted = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}
    layout = Layout(config.model_type, config.num_attention_heads, config.num_key_value_heads)
    return parameters_of(header, layout, wanted)


def check_complete(ref: str, required: int, stored: int) -> None:
    """Refuse files that hold fewer values than the config describes.

    transformers would initialize the missing ones at random. Raises ModelError.
    """
    if required > stored:
        raise ModelError(
            f"'{ref}' lacks weights: its config describes {required:,} values, its files hold {stored:,}. Download it "
            "again."
        )


def check_vocabulary(ref: str, tokens: int, embeddings: int) -> None:
    """Refuse a tokenizer that produces ids beyond the table of embeddings. Raises ModelError."""
    if tokens > embeddings:
        raise ModelError(
            f"'{ref}' has a tokenizer of {tokens:,} tokens but {embeddings:,} embeddings: they do not belong together. "
            "Take both from the same model."
        )
