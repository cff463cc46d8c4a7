"""Fixtures that several tests of abq_core share; a module may override them."""

from pathlib import Path

import pytest
from torch import Tensor

from abq_core.models.loading import LoadedModel, load_model
from abq_core.text.segments import segments


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture(scope="module")
def ids(base: LoadedModel) -> Tensor:
    return segments("builtin", base.tokenizer, 2, 24, 0, "evaluation")
