"""Building models in several threads, and errors of transformers."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from transformers import PreTrainedModel

from abq_core.models.building import checked_files
from abq_core.models.errors import ModelError
from abq_core.models.loading import load_model
from abq_core.models.shape import model_shape


def test_threads_may_load_models_and_read_shapes_at_once() -> None:
    tie, errors = PreTrainedModel.tie_weights, list[Exception]()

    def repeat(read: Callable[[str], object]) -> None:
        try:
            for _ in range(4):
                read("builtin")
        except Exception as error:
            errors.append(error)

    threads = [Thread(target=repeat, args=(read,)) for read in (load_model, model_shape) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert PreTrainedModel.tie_weights is tie  # transformers replaces it while it builds a model


def test_errors_inside_name_the_model_and_leave_the_lock_free(tiny_llama: Path) -> None:
    for error in (ValueError("bad shape"), KeyError("x"), RuntimeError("broken")):
        with pytest.raises(ModelError, match="'my model' cannot be loaded"), checked_files("my model", tiny_llama):
            raise error
    with pytest.raises(MemoryError), checked_files("my model", tiny_llama):
        raise MemoryError
    with checked_files("my model", tiny_llama, weights=False) as links:
        assert not list(links.glob("*.safetensors")) and (links / "config.json").is_file()
    assert not links.exists()
