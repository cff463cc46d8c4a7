"""Models: from a reference (built-in, folder, hub id) to one that runs, safely; and its shape without its weights.

What is checked before transformers opens anything stands in `model_files.py`.
"""

import hashlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from abq_core.mix import ModelPrecision
from abq_core.models import hub
from abq_core.models.architectures import blocks_of
from abq_core.models.attention import ATTENTION
from abq_core.models.errors import ModelError, ModelNotFoundError, UnsafeModelError
from abq_core.models.experts import split_experts
from abq_core.models.falcon import plain_linears
from abq_core.models.files import CONFIG, check_config, check_sizes, check_weights, link_files, weight_files
from abq_core.models.head_layout import HeadLayout
from abq_core.models.registration import register_attention
from abq_core.models.tokenizer import load_tokenizer
from abq_core.precision import FULL
from abq_core.quantization.quant_linear import linears_of

__all__ = [
    "BUILTIN",
    "BUILTIN_FOLDER",
    "LoadedModel",
    "ModelError",
    "ModelNotFoundError",
    "ModelShape",
    "UnsafeModelError",
    "check_config",
    "fingerprint",
    "load_model",
    "model_shape",
    "pinned",
    "shape_of",
]

BUILTIN = "builtin"
_SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "num_experts", "num_local_experts")
BUILTIN_FOLDER = Path(__file__).parents[1] / "builtin" / "model"
_TRANSFORMERS = threading.Lock()


class Decoder(Protocol):
    """A decode step that is faster than transformers' modules. kv_bits: bits of K and V in its cache, or None."""

    kv_bits: int | None

    def hidden(self, token: int, cache: Any) -> Tensor:
        """Append one token to a `PreallocatedCache` that is not empty. Returns the last hidden state, (hidden,).

        Raises CacheFullError.
        """
        ...


@dataclass
class LoadedModel:
    """A model ready to run: eval mode, no gradients. `precision` is FULL unless runtime.py made it.

    `decoder`: a shorter way for one token, where runtime.py found one.
    """

    ref: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    precision: ModelPrecision
    decoder: Decoder | None = None

    @property
    def context(self) -> int:
        """The most tokens that the model was made for."""
        return _context(self.model.config)

    @property
    def vocabulary(self) -> int:
        """The number of logits per token."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def hidden(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Last hidden states, (batch, tokens, hidden), of ids (batch, tokens) int64; `cache` is read and extended."""
        ids = ids.to(self.model.device)
        output = self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., vocabulary) float32 logits of (..., hidden): apart from `hidden`, so that long texts go in pieces."""
        logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model. `linears`: (out, in) of each linear of a block, by name relative to the block; `exceptions`: of
    the blocks, by index, that have others (dense blocks among mixtures of experts).

    `intermediate` is the width of the MLP or of one expert. `parameters` counts tied embeddings once.
    """

    ref: str
    family: str
    blocks: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int
    linears: dict[str, tuple[int, int]]
    parameters: int
    exceptions: Mapping[int, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def block_linears(self, block: int) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear of one block, by name."""
        return self.exceptions.get(block, self.linears)


def load_model(ref: str, device: str = "cpu") -> LoadedModel:
    """Load "builtin", a folder, or a hub id "org/name[@revision]" in fp32, after checking its files.

    Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    target = _device(device)
    folder = _folder(ref)
    check_config(folder)
    register_attention()
    with _only_checked_files(folder) as links, _alone(), _as_model_error(ref):
        config = _config(links)
        _check_complete(ref, config, check_weights(folder))
        model, report = AutoModelForCausalLM.from_pretrained(
            links,
            config=config,
            dtype=torch.float32,
            attn_implementation=ATTENTION,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        split_experts(model)
        plain_linears(model)
        tokenizer = load_tokenizer(links)
        loaded = LoadedModel(ref, model.to(target).eval().requires_grad_(False), tokenizer, FULL)
        _check_loaded(loaded, report)
        model.config.name_or_path = ref
        tokenizer.model_max_length = min(tokenizer.model_max_length, loaded.context)
    return loaded


def model_shape(ref: str) -> ModelShape:
    """The sizes of a model from its config alone: no weights are read or downloaded. Raises as load_model does."""
    local = _local_folder(ref)
    if local is not None:
        check_config(local)
    folder = local or hub.hub_folder(ref, weights=False)
    register_attention()
    with _only_checked_files(folder, weights=False) as links, _alone(), _as_model_error(ref):
        return shape_of(ref, _config(links))


def shape_of(ref: str, config: Any) -> ModelShape:
    """The sizes of the model that a transformers config describes, under the name `ref`; nothing is allocated."""
    model = _empty_model(config)
    sizes = [{n: (m.out_features, m.in_features) for n, m in linears_of(b).items()} for b in blocks_of(model)]
    layout = HeadLayout.of(config)
    return ModelShape(
        ref=ref,
        family=config.model_type,
        blocks=len(sizes),
        hidden=config.hidden_size,
        heads=layout.heads,
        kv_heads=layout.kv_heads,
        intermediate=_intermediate(config),
        vocabulary=config.vocab_size,
        context=_context(config),
        linears=sizes[0],
        parameters=_parameters(model),
        exceptions={index: own for index, own in enumerate(sizes) if own != sizes[0]},
    )


def pinned(ref: str) -> str:
    """The reference that means the same files tomorrow: a hub id gets its commit, others stay. Raises ModelError."""
    return ref if _local_folder(ref) is not None else hub.pinned(ref)


def fingerprint(ref: str) -> str:
    """sha256 (hex) over the names and contents of a model's config and weights; equal files give the equal value."""
    folder = _folder(ref)
    check_config(folder)
    digest = hashlib.sha256()
    for file in sorted([folder / CONFIG, *weight_files(folder)]):
        stat = file.stat()
        digest.update(f"{file.name}\0{_sha256(file, stat.st_size, stat.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    """The file's hash; size and time are part of the key, so that a changed file is read again."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder(ref: str) -> Path:
    """Where the files of `ref` are, downloaded where it is a hub id."""
    return _local_folder(ref) or hub.hub_folder(ref, weights=True)


def _local_folder(ref: str) -> Path | None:
    """The folder that `ref` names; None where it names none."""
    if ref == BUILTIN:
        return BUILTIN_FOLDER
    try:
        path = Path(ref).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, no home, a null byte: no folder in any case
        return None


@contextmanager
def _only_checked_files(folder: Path, weights: bool = True) -> Iterator[Path]:
    """A folder of links to the checked files: transformers finds no adapter, no code and no pickle in it."""
    with tempfile.TemporaryDirectory(prefix="abq-model-") as name:
        link_files(folder, Path(name), weights)
        yield Path(name)


@contextmanager
def _alone() -> Iterator[None]:
    """One thread at a time: while transformers builds a model it has its own classes, and torch's, patched for the
    whole process, and two threads would leave the patches behind for good. No progress bars and no advice on the
    terminal; what matters is raised.
    """
    with _TRANSFORMERS:
        level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            if bars:
                transformers_logging.enable_progress_bar()


@contextmanager
def _as_model_error(ref: str) -> Iterator[None]:
    """Whatever a config, tokenizer or weight file makes transformers raise is a ModelError that names the model."""
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"'{ref}' cannot be loaded: {str(error)[:300]}. Check its files, or use another model."
        ) from error


def _config(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    found = {name: getattr(config, name, None) for name in _SIZES}
    check_sizes(found, CONFIG)  # again, as the family understood it: some have other names for these in the file
    return config


def _empty_model(config: Any) -> nn.Module:
    """The model with tensors that have a shape but no memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, trust_remote_code=False)
        split_experts(model)
        plain_linears(model)
    return model


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check_complete(ref: str, config: Any, stored: int) -> None:
    """Refuse a config that asks for more weights than the files hold: they would be made up at random."""
    wanted = _parameters(_empty_model(config))
    if wanted > stored:
        raise ModelError(
            f"'{ref}' lacks weights: its config describes {wanted:,} values, its files hold {stored:,}. Download it "
            "again."
        )


def _check_loaded(loaded: LoadedModel, report: dict[str, Any]) -> None:
    """Refuse weights that are absent or of another shape, and a tokenizer of another model."""
    if absent := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise ModelError(
            f"'{loaded.ref}' lacks the weights of {', '.join(absent[:3])} ({len(absent)} in all). Download it again, "
            "or save it with save_pretrained."
        )
    if len(loaded.tokenizer) > loaded.vocabulary:
        raise ModelError(
            f"'{loaded.ref}' has a tokenizer of {len(loaded.tokenizer):,} tokens but {loaded.vocabulary:,} embeddings: "
            "they do not belong together. Take both from the same place."
        )


def _intermediate(config: Any) -> int:
    """The MLP's width, under the name that the family has for it."""
    names = ("moe_intermediate_size", "ffn_dim", "ffn_hidden_size", "intermediate_size")
    return next(int(width) for name in names if (width := getattr(config, name, None)))


def _context(config: Any) -> int:
    return int(config.max_position_embeddings)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"The device '{name}' is not usable here. Use 'cpu'.") from error
    return device
