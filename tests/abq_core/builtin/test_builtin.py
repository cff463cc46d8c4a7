"""The built-in model and text, on which every feature works offline."""

import math
from pathlib import Path

import torch

from abq_core.builtin.corpus import documents
from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import load_model
from abq_core.models.reference import BUILTIN_FOLDER
from abq_core.precision import Precision
from abq_core.text.segments import segments


def test_the_splits_share_no_document_and_most_is_for_training() -> None:
    names = {split: {d.name for d in documents(split)} for split in ("train", "calibration", "evaluation")}
    assert not names["train"] & names["calibration"]
    assert not names["evaluation"] & (names["train"] | names["calibration"])
    assert len(names["train"]) > 10 * max(len(names["calibration"]), len(names["evaluation"]))
    assert all(names.values())


def test_the_text_is_documentation_and_source_without_tests() -> None:
    every = [d for split in ("train", "calibration", "evaluation") for d in documents(split)]
    assert any(d.name.startswith("topic:") for d in every)
    assert not any("/tests/" in d.name or "site-packages" in d.name for d in every)


def test_the_model_fits_in_12_mb_and_has_a_card() -> None:
    files = [path for path in Path(BUILTIN_FOLDER).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert "perplexity" in (Path(BUILTIN_FOLDER) / "README.md").read_text()


def test_it_predicts_held_out_text_and_two_bits_hurt() -> None:
    base = load_model("builtin")
    ids = segments("builtin", base.tokenizer, 8, 256, 0, "evaluation")
    full = evaluate(base, base, ids)
    rounded = evaluate(rounded_model(base, Precision.parse("W2A8"), "simulated"), base, ids)
    assert full.perplexity < 60  # the uniform guess is 4,096
    assert rounded.perplexity > 1.5 * full.perplexity
    assert rounded.same_top < 0.9 and rounded.kl_mean > 0.1


def test_it_writes_python_documentation() -> None:
    base = load_model("builtin")
    prompt = base.tokenizer("The following methods", return_tensors="pt").input_ids
    written = base.model.generate(prompt, max_new_tokens=40, do_sample=False, pad_token_id=0)
    text = base.tokenizer.decode(written[0])
    words = [w for w in text.replace("\n", " ").split(" ") if w.isalpha()]
    assert len(words) >= 8
    known = {w for d in documents("train") for w in d.text.split()}
    assert sum(w in known for w in words) / len(words) > 0.9
    assert math.isfinite(float(base.model(torch.tensor([[1, 2, 3]])).logits.sum()))
