"""Where a decode step's time goes."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from abq_core.inference.cpu_decoder import ATTENTION, EMBEDDING, LINEARS, NORMS, CpuDecoder
from abq_core.inference.decode_profile import HEAD, MODULES, PYTHON, SAMPLING, profile_decode
from abq_core.inference.errors import PromptError
from abq_core.inference.runtime import rounded_model, weight_bytes
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.reference import BUILTIN
from abq_core.precision import Precision

PROMPT = "import os"


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load_model(BUILTIN)


def test_the_parts_of_a_packed_step(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = rounded_model(base, Precision.parse("W4A8h8"), "packed")
    seen: list[int] = []
    found = profile_decode(model, PROMPT, 4, weight_bytes(model), seen.append)
    assert [part.kind for part in found.parts] == [LINEARS, HEAD, ATTENTION, NORMS, EMBEDDING, SAMPLING, PYTHON]
    assert seen == list(range(1, 15))
    assert all(part.seconds >= 0 for part in found.parts)
    assert sum(part.seconds for part in found.parts) >= found.seconds > 0
    read = {part.kind: part.nbytes for part in found.parts}
    config = base.model.config
    assert read[LINEARS] == weight_bytes(model)
    assert read[HEAD] == model.model.get_output_embeddings().packed.nbytes
    width = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    assert read[ATTENTION] == config.num_hidden_layers * 2 * width * found.positions * 4

    slow = _slowed(model, ATTENTION, 0.002)
    again = {part.kind: part.seconds for part in profile_decode(slow, PROMPT, 4, weight_bytes(model)).parts}
    assert again[ATTENTION] >= 0.002 * config.num_hidden_layers
    assert max(again, key=lambda kind: again[kind]) == ATTENTION, "its time is in no other part"


def _slowed(model: LoadedModel, slow: str, seconds: float) -> LoadedModel:
    """The model with every operation of one kind slower."""

    def change(kind: str, operation):  # type: ignore[no-untyped-def]
        def slowly(*arguments):  # type: ignore[no-untyped-def]
            time.sleep(seconds)
            return operation(*arguments)

        return slowly if kind == slow else operation

    assert isinstance(model.decoder, CpuDecoder)
    return replace(model, decoder=model.decoder.with_operations(change))


def test_a_model_of_modules_is_profiled_by_its_linears(base: LoadedModel) -> None:
    found = profile_decode(base, PROMPT, 2, weight_bytes(base))
    assert [part.kind for part in found.parts] == [LINEARS, HEAD, SAMPLING, MODULES]
    assert found.parts[0].seconds > 0


def test_a_text_longer_than_the_context_is_refused(tiny_llama: Path) -> None:
    model = load_model(str(tiny_llama))
    with pytest.raises(PromptError, match="it exceeds the context"):
        profile_decode(model, PROMPT, model.context, 0)
