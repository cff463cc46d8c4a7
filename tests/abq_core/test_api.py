"""The Python API: what docs/python.md shows runs, and importing it is cheap."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

import abq_core as abq
from abq_core.evaluation.perplexity import evaluate as score
from abq_core.models.loading import LoadedModel
from abq_core.spec import SpecError
from abq_core.text.paper import paper_segments

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)  # the page's own code
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("weight_snr_db", "full precision", "corrected", "9 weight bits"))
    frames = names["frames"]
    assert isinstance(frames, dict) and set(frames) == {"histograms", "levels", "linears", "outliers"}


def test_importing_loads_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, abq_core as abq; assert abq.Precision.parse('W2*A8').balanced; "
        "print(sorted({'torch', 'pandas', 'transformers', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_name_is_there_and_no_other() -> None:
    assert set(abq.__all__) == {"Precision", "calibrate", "evaluate", "explore", "generate", "load"}
    assert all(getattr(abq, name).__doc__ for name in abq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quantize'"):
        _ = abq.quantize  # type: ignore[attr-defined]


def test_calibrate_leaves_the_model_as_it_was(base: LoadedModel, ids: Tensor) -> None:
    before = base.logits(base.hidden(ids))
    quantized = abq.calibrate(base, "W2A8", "rtn", segments=2, seq_len=16, engine="simulated")
    assert quantized is not base and str(quantized.precision) == "W2A8"
    assert base.logits(base.hidden(ids)).equal(before)
    assert not quantized.logits(quantized.hidden(ids)).equal(before)


@pytest.mark.parametrize(
    ("method", "arguments", "sentence"),
    [
        ("gptq", {}, "'gptq' is not a method"),
        ("abq", {"switches": {"akl": "perhaps"}}, "akl"),
        ("abq", {"switches": {"sharpness": True}}, "sharpness"),
        ("abq", {"epochs": -1}, "epochs is -1"),
    ],
)
def test_a_wrong_setting_is_named(base: LoadedModel, method: str, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        abq.calibrate(base, "W4A4", method, **arguments)  # type: ignore[arg-type]


def test_evaluate_follows_the_protocol_and_reads_the_part_of_a_file(base: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("The module reads files, line by line.\n" * 120)
    paper = abq.evaluate(base, data=str(file), protocol="paper", whole=True)
    ids, _ = paper_segments(str(file), base.tokenizer, base.context, "whole")
    assert len(paper.segment_losses) == len(ids)
    assert paper == score(base, None, ids)
    whole, tenth = (abq.evaluate(base, data=str(file), segments=None, seq_len=16, whole=part) for part in (True, False))
    assert len(whole.segment_losses) > 8 * len(tenth.segment_losses) > 8
