"""Property tests of everything that reads untrusted input.

Each input returns a value or raises a named error.
The slow test reads 10,000 cases with each reader.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abq_core.mix import MixError
from abq_core.models.errors import ModelError
from abq_core.models.files import WEIGHTS, check_settings, check_weights
from abq_core.models.shape import model_shape
from abq_core.precision import Precision, PrecisionError
from abq_core.spec import METHODS, CalibrationSpec, SpecError

LONG = 10_000
FAST = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner))
hostile_keys = st.sampled_from(
    [
        "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "vocab_size",
        "head_dim", "rope_scaling", "rope_parameters", "layer_types", "torch_dtype", "dtype", "architectures",
        "max_position_embeddings", "tie_word_embeddings", "hidden_act", "pad_token_id", "use_cache", "rms_norm_eps",
        "quantization_config", "auto_map", "text_config", "sliding_window", "attention_bias", "id2label", "num_labels",
        "output_attentions", "is_encoder_decoder", "pruned_heads", "problem_type", "transformers_version",
        "attn_implementation", "_name_or_path", "return_dict", "layer_norm_epsilon", "initializer_range",
    ]
)  # fmt: skip
notation = st.text("W0123456789*AaGgKkVv \t-.e\u0664\uff14", max_size=16)
shapes = st.lists(st.integers(-4, 2**70) | st.floats() | st.none() | st.text(max_size=2), max_size=10)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "I8", "BOOL", "F8_E4M3", "", None, 3]),
        "shape": shapes | values,
        "data_offsets": st.lists(st.integers(-9, 2**70), max_size=3) | values,
        "other": values,
    },
)
headers = st.dictionaries(st.text(max_size=12) | st.just("__metadata__"), entries | values, max_size=5) | values


def answers(read: Callable[[], object], *errors: type[ValueError]) -> None:
    """Call `read`; it may raise one of `errors` with a message, and nothing else."""
    try:
        read()
    except errors as error:
        assert len(str(error)) > 10


def check_config_case(folder: Path, original: dict[str, Any], changes: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps({**original, **changes}))
    answers(lambda: model_shape(str(folder)), ModelError)


def check_bytes_case(folder: Path, raw: bytes) -> None:
    (folder / "config.json").write_bytes(raw)
    answers(lambda: check_settings(folder), ModelError)


def check_header_case(folder: Path, header: object, length: int | None, body: bytes) -> None:
    raw = json.dumps(header).encode()
    size = len(raw) if length is None else length
    (folder / WEIGHTS).write_bytes(size.to_bytes(8, "little") + raw + body)
    answers(lambda: check_weights(folder), ModelError)


def check_precision_case(text: str) -> None:
    answers(lambda: Precision.parse(text), PrecisionError)


def check_spec_case(data: dict[str, Any]) -> None:
    answers(lambda: CalibrationSpec.from_dict(data), SpecError, PrecisionError, MixError)


specs = st.fixed_dictionaries(
    {"model": st.just("builtin") | values, "precision": st.sampled_from(["W4A4", "W2*A8g64"]) | notation | values},
    optional={
        "method": st.sampled_from(sorted(METHODS)) | values, "switches": values, "data": values, "segments": values,
        "seq_len": values, "epochs": values, "end_to_end_segments": values, "seed": values, "device": values,
        "mix": values, "more": values,
    },
)  # fmt: skip


def run_all(folder: Path, original: dict[str, Any], cases: int, shape_cases: int) -> None:
    """Run every reader on `cases` inputs, and model_shape, which builds a model, on `shape_cases`."""
    some = settings(FAST, max_examples=cases)
    some(given(notation | st.text(max_size=40))(check_precision_case))()
    some(given(specs)(check_spec_case))()
    some(given(st.binary(max_size=200) | st.text().map(lambda t: t.encode("utf-8", "surrogatepass")))(
        lambda raw: check_bytes_case(folder, raw)
    ))()  # fmt: skip
    changes = st.dictionaries(hostile_keys | st.text(max_size=20), values, max_size=3)
    settings(FAST, max_examples=shape_cases)(given(changes)(lambda c: check_config_case(folder, original, c)))()
    lengths = st.none() | st.integers(0, 2**64 - 1)
    some(given(headers, lengths, st.binary(max_size=64))(lambda h, n, b: check_header_case(folder, h, n, b)))()


@pytest.fixture(scope="module")
def original(tiny_llama: Path) -> dict[str, Any]:
    return json.loads((tiny_llama / "config.json").read_text())


def test_any_input_gets_an_answer(folder: Path, original: dict[str, Any]) -> None:
    run_all(folder, original, 150, 25)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_inputs_get_an_answer(
    folder: Path, original: dict[str, Any], record_property: Callable[..., None]
) -> None:
    record_property("cases per reader", LONG)
    run_all(folder, original, LONG, LONG)
