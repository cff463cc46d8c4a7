"""Build transformers models from checked files only, one thread at a time.

Every failure becomes a ModelError.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from abq_core.models.attention.function import ATTENTION
from abq_core.models.checks.config_fields import check_sizes
from abq_core.models.errors import STOPS, ModelError
from abq_core.models.experts import split_experts
from abq_core.models.falcon import replace_falcon_linears
from abq_core.models.files import CONFIG, link_files
from abq_core.models.registration import register_attention
from abq_core.models.temporary_folders import temporary_folder

_CHECKED_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "vocab_size",
    "num_attention_heads",
    "num_experts",
    "num_local_experts",
)
_LOCK = threading.Lock()


@contextmanager
def checked_files(ref: str, folder: Path, weights: bool = True) -> Iterator[Path]:
    """Open a checked model folder for transformers.

    Yields a temporary folder of links to the checked files, so that transformers finds no adapter, code or pickle. The
    caller holds the lock around transformers. Any error of transformers is raised as a ModelError that names `ref`.
    """
    register_attention()
    with temporary_folder() as name, _exclusive(), _as_model_error(ref):
        link_files(folder, Path(name), weights)
        yield Path(name)


@contextmanager
def _exclusive() -> Iterator[None]:
    """Hold the lock around transformers, and silence its progress bars and warnings.

    While transformers 5 constructs a model it replaces functions of `torch.nn.init` and `PreTrainedModel.tie_weights`
    for the whole process; two threads that overlap would leave the replacements in place.
    """
    with _LOCK:
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
    """Convert any error of transformers to a ModelError that names `ref`.

    The cause may be the config, the tokenizer or the weights.
    """
    try:
        yield
    except (ModelError, MemoryError, *STOPS):
        raise
    except BaseException as error:
        raise ModelError(
            f"'{ref}' cannot be loaded: {str(error)[:300]}. Check its files, or use another model."
        ) from error


def read_config(folder: Path) -> Any:
    """Read the transformers config of a checked folder.

    Raises UnsafeModelError for sizes beyond the limits.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # The file was checked before. The config class may fill in defaults or map other key names, so check its result.
    check_sizes({name: getattr(config, name, None) for name in _CHECKED_SIZES}, CONFIG)
    return config


def empty_model(config: Any) -> nn.Module:
    """The model on the meta device: its tensors have shapes but no memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, trust_remote_code=False)
        use_plain_linears(model)
    return model


def use_plain_linears(model: nn.Module) -> None:
    """Replace fused experts and Falcon's linears by equal `nn.Linear` modules, in place."""
    split_experts(model)
    replace_falcon_linears(model)


def parameter_count(model: nn.Module) -> int:
    """The number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
