"""The comparison of methods: its rows, the keys under which they are stored, and the page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import measure_missing as answering
import measure_row
import pytest
import quality
from benchmark_cases import CONDITIONS, figures
from conditions import Conditions
from measure_missing import DifferentTextError, measure_missing
from pages.quality_page import page
from peer_weights import PeerError
from row_file import RowFile
from row_spec import RowSpec

from abq_core.spec import METHODS


def grid(model: str, precisions: list[str], methods: list[str], conditions: Conditions = CONDITIONS) -> list[RowSpec]:
    return list(quality.row_specs([model], precisions, methods, False, conditions))


@pytest.fixture(scope="module")
def on_words(tmp_path_factory: pytest.TempPathFactory) -> Conditions:
    """Conditions with a short text, because the built-in one takes seconds to tokenize."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(f"def f{n}(path): return open(path, {n * n})\n" for n in range(400)))
    return replace(CONDITIONS, data=str(path))


def test_peers_have_no_rows_for_starred_precisions() -> None:
    asked = [(q.precision, q.method) for q in grid("builtin", ["W2A8", "W2*A8"], ["abq", "gptq", "autoround@64"])]
    assert asked == [
        ("W16A16", "full"),
        ("W2A8", "abq"),
        ("W2A8", "gptq"),
        ("W2A8", "autoround@64"),
        ("W2*A8", "abq"),
    ]


def test_a_key_contains_what_the_results_depend_on_and_nothing_else() -> None:
    def asked(method: str, **changes: Any) -> dict[str, Any]:
        conditions = replace(CONDITIONS, **changes)
        return RowSpec("builtin", "W2A8", method, None, False, conditions).key()

    assert asked("abq") != asked("abq", epochs=2)
    assert asked("abq") == asked("abq", steps=2, end_to_end_segments=9, peer_python=Path("/elsewhere"))
    assert asked("rtn") == asked("rtn", epochs=2)
    assert asked("gptq") != asked("gptq", steps=2)
    assert asked("gptq") == asked("gptq", epochs=2, peer_python=Path("/elsewhere"))
    assert asked("abq+") != asked("abq+", end_to_end_segments=9)
    assert asked("abq", seed=1) != asked("abq") != asked("abq", eval_segments=4)
    by_hand = RowSpec("builtin", "W2A8", "abq", METHODS["abq"], False, CONDITIONS).key()
    assert by_hand == asked("abq")
    symmetric = RowSpec("builtin", "W2A8", "abq", replace(METHODS["abq"], symmetric=True), True, CONDITIONS).key()
    assert symmetric != by_hand


def test_rows_are_measured_once_and_a_missing_peer_is_omitted(
    tiny_llama: Path,
    on_words: Conditions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = []

    def here(spec: RowSpec) -> dict[str, Any]:
        measured.append(spec.method)
        return measure_row._measure(spec)

    monkeypatch.setattr(answering, "measure", here)
    file, asked = RowFile(tmp_path / "rows.json"), grid(str(tiny_llama), ["W2A8"], ["rtn", "abq", "gptq"], on_words)
    known = measure_missing(asked, file)
    assert measured == ["full", "rtn", "abq", "gptq"]
    assert [spec.method for spec in known] == ["full", "rtn", "abq"]
    assert "W2A8 gptq is omitted" in capsys.readouterr().err
    full, rtn, abq = known.values()
    assert full["perplexity"] != rtn["perplexity"] != abq["perplexity"]
    assert full["kl_mean"] == 0 < abq["kl_mean"] and abq["cpu_seconds"] >= 0
    assert full["weight_bytes"] > 4 * rtn["weight_bytes"]
    measured.clear()
    assert measure_missing(asked[:3], file) == known
    assert measured == []
    measure_missing(asked[:3], file, again=["abq"])
    assert measured == ["abq"]


def test_a_row_that_fails_is_stored_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: RowSpec) -> dict[str, Any]:
        raise answering.EvaluationError("no usable perplexity")

    monkeypatch.setattr(answering, "measure", broken)
    asked = grid("builtin", ["W2A8"], ["rtn"])[1:]
    file = RowFile(tmp_path / "rows.json")
    assert measure_missing(asked, file)[asked[0]] == {"error": "no usable perplexity"}
    assert file.find(asked[0].key()) == {"error": "no usable perplexity"}


def test_rows_on_different_text_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, file = grid("builtin", ["W2A8"], ["rtn", "abq"]), RowFile(tmp_path / "rows.json")
    for spec, text in zip(asked, ("a", "a", "b"), strict=True):
        file.add(spec.key(), figures([2.0, 2.1], text_sha256=text))
    assert len(measure_missing(asked[:2], file)) == 2
    with pytest.raises(DifferentTextError, match=r"W2A8 abq and builtin W16A16 full .* --again"):
        measure_missing(asked, file)


def test_a_row_is_measured_in_a_new_process_and_its_errors_are_raised(tiny_llama: Path, on_words: Conditions) -> None:
    spec = RowSpec(str(tiny_llama), "W2A8", "gptq", None, False, on_words)
    with pytest.raises(PeerError, match=r"/nowhere/python cannot be run"):
        measure_row.measure(spec)


def test_a_peer_that_fails_leaves_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(spec: RowSpec) -> dict[str, Any]:
        raise PeerError("not installed")

    monkeypatch.setattr(answering, "measure", failing)
    assert measure_missing(grid("builtin", ["W2A8"], ["gptq"])[1:], RowFile(tmp_path / "rows.json")) == {}


def test_the_page_compares_the_last_method_with_the_others(tmp_path: Path) -> None:
    losses = {
        "full": [2.0, 2.1, 2.2],
        "rtn": [4.0, 4.1, 4.2],
        "abq": [2.5, 2.6, 2.7],
        "abq+": [2.2, 2.3, 2.41],
        "autoround": [2.3, 2.4, 2.5],
    }
    asked = grid("builtin", ["W3A8", "W2*A8"], ["rtn", "abq", "abq+", "autoround"])
    known = {q: figures(losses[q.method], package="auto-round 0.16.1") for q in asked}
    known[next(q for q in asked if (q.precision, q.method) == ("W2*A8", "rtn"))] = {"error": "no usable perplexity"}
    text = page(known, CONDITIONS, "python benchmarks/quality.py")
    assert "Full precision: **8.17** ± 0.50 on 96 held-out tokens" in text
    assert "| W3A8 | 3 | 1.00x | 60.34 ± 0.50 | 13.46 ± 0.50 | **10.01** ± 0.50 | 11.02 ± 0.50 |" in text
    assert "| W2*A8 | 3 | 1.00x | - | 13.46 ± 0.50 | **10.01** ± 0.50 | - |" in text
    assert "How much lower the perplexity of `abq+` is" in text and "**1.02 ± 0.03**" in text
    assert "`abq+` at W2*A8 reaches 10.01" in text and "`autoround` by **1.02 ± 0.03**" in text
    assert "No perplexity: builtin W2*A8 rtn: no usable perplexity" in text
    assert "auto-round 0.16.1" in text and "python benchmarks/quality.py" in text
