"""Where a run loads: one row per runtime, by the facts of one file."""

import json
from dataclasses import replace

import pytest

from abq_core.export import loading_table as module
from abq_core.export.formats import FORMATS
from abq_core.export.loading_table import LoadFact, loading_table
from abq_core.methods import METHODS
from abq_core.mix import MixedLinear, PrecisionMix
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec

FACTS = json.loads(module._FILE.read_text("utf-8"))["facts"]


def rows(precision: str, method: str = "abq", family: str = "llama", **switches: bool) -> dict[str, LoadFact]:
    """The table of a run, by runtime and format."""
    spec = CalibrationSpec("builtin", Precision.parse(precision), method, replace(METHODS[method], **switches))
    found = loading_table(spec, family)
    return {f"{row.runtime.split(',')[0]} {row.format}": row for row in found}


def test_activation_bits_that_differ_fit_no_kernel_of_vllm() -> None:
    for act_bits in ((8, 4), (8, 16), (8, 6)):
        linears = (MixedLinear(0, str(bits), Precision(4, bits), 64) for bits in act_bits)
        spec = CalibrationSpec("builtin", PrecisionMix(tuple(linears)), "rtn")
        found = {row.runtime: row.loads for row in loading_table(spec, "llama")}
        assert found["vLLM"] == found["vLLM on a CPU"] == "no"
        assert found["transformers with compressed-tensors"] == "yes"


def test_a_rotated_gemma_has_two_tables_which_vllm_refuses() -> None:
    for family, loads in (("gemma", "no"), ("llama", "exported with --activations symmetric")):
        found = rows("W4A8", "rtn", family, rotation=True, hadamard=False)
        assert found["vLLM compressed-tensors"].loads == loads


def test_every_fact_has_a_source_and_a_version() -> None:
    for fact in FACTS:
        assert fact["version"] and fact["sources"] and fact["how"] in ("run", "read")
        assert fact["format"] in {*FORMATS, "none"}


def test_every_runtime_has_one_row_whatever_the_run() -> None:
    runtimes = {(fact["runtime"], fact["format"]) for fact in FACTS}
    for precision in ("W4A8", "W8A8", "W2*A8", "W4A16g64", "W4A4kv4", "W6A6", "W16A8"):
        for family in ("llama", "opt", "mixtral"):
            for hadamard in (False, True):
                assert len(rows(precision, family=family, hadamard=hadamard)) == len(runtimes)


@pytest.mark.parametrize(
    ("precision", "switches", "runtime", "loads"),
    [
        ("W4A8", {}, "vLLM compressed-tensors", "exported with --activations symmetric"),
        ("W4A16g64", {}, "vLLM compressed-tensors", "yes"),
        ("W8A8", {}, "vLLM compressed-tensors", "no"),
        ("W8A8", {"symmetric": True}, "vLLM compressed-tensors", "yes"),
        ("W8A8", {"symmetric": True}, "vLLM on a CPU compressed-tensors", "yes"),
        ("W8A8g64", {"symmetric": True}, "vLLM on a CPU compressed-tensors", "no"),
        ("W4A8", {"symmetric": True}, "vLLM on a CPU compressed-tensors", "exported with --activations symmetric"),
        ("W3A8", {}, "vLLM on a CPU compressed-tensors", "exported with --activations symmetric"),
        ("W2A16", {"half_zero": True}, "vLLM on a CPU compressed-tensors", "yes"),
        ("W6A8", {"half_zero": True}, "vLLM on a CPU compressed-tensors", "yes"),
        ("W2A8", {}, "vLLM on a CPU compressed-tensors", "no"),
        ("W6A6", {}, "vLLM compressed-tensors", "no"),
        ("W4A8", {"hadamard": True}, "llama.cpp gguf", "no"),
        ("W8A8", {}, "llama.cpp gguf", "with --nearest"),
        ("W4A8", {}, "llama.cpp gguf", "yes"),
        ("W4A8h8", {}, "llama.cpp gguf", "with --nearest"),
        ("W4A8h7", {}, "llama.cpp gguf", "yes"),
        ("W4A8", {}, "ABQ Explorer transformers", "yes"),
    ],
)
def test_what_fits_a_run(precision: str, switches: dict[str, bool], runtime: str, loads: str) -> None:
    assert rows(precision, **switches)[runtime].loads == loads


def test_only_what_the_run_has_is_dropped() -> None:
    assert rows("W4A16")["llama.cpp gguf"].drops == []
    assert rows("W4A8kv8")["llama.cpp gguf"].drops == ["activation bits: 8 in blocks of 32 or 256", "KV bits"]
