"""KL by full precision's confidence: edges, shares and means."""

from pathlib import Path

import numpy as np
import pytest
import torch

from abq_core.evaluation.kl_buckets import KlBucket, kl_buckets
from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision


def test_each_token_counts_in_the_bucket_of_its_confidence() -> None:
    confidence = np.array([0.0, 0.4999, 0.5, 0.95, 0.9999, 1.0], dtype=np.float32)
    found = kl_buckets(confidence, np.array([1.0, 3.0, 5.0, 7.0, 2.0, 4.0]))
    assert found == (
        KlBucket(0.0, 0.5, 2 / 6, 2.0),
        KlBucket(0.5, 0.9, 1 / 6, 5.0),
        KlBucket(0.9, 0.99, 1 / 6, 7.0),
        KlBucket(0.99, 1.0, 2 / 6, 3.0),
    )
    assert [bucket.kl_mean for bucket in kl_buckets(np.array([0.1]), np.array([0.5]))] == [0.5, None, None, None]


def test_an_evaluation_has_the_buckets_of_its_tokens(tiny_llama: Path) -> None:
    base = load_model(str(tiny_llama))
    with torch.no_grad():
        base.model.lm_head.weight.mul_(6)  # confident predictions too
    rounded = rounded_model(base, Precision.parse("W4A6"), "simulated")
    text = torch.randint(1, 300, (6, 24), generator=torch.Generator().manual_seed(0))
    scores = evaluate(rounded, base, text)
    expected: dict[int, list[float]] = {0: [], 1: [], 2: [], 3: []}
    for segment in text:
        p, q = (torch.log_softmax(m.model(segment[None]).logits[0, :-1].double(), -1) for m in (base, rounded))
        for log_p, log_q in zip(p, q, strict=True):
            index = sum(log_p.max().exp().item() >= edge for edge in (0.5, 0.9, 0.99))
            expected[index].append((log_p.exp() * (log_p - log_q)).sum().item())
    assert sum(map(bool, expected.values())) >= 2, "the model has one bucket only, so nothing is compared"
    for bucket, values in zip(scores.kl_buckets, expected.values(), strict=True):
        assert bucket.share == pytest.approx(len(values) / (6 * 23))
        assert bucket.kl_mean == (pytest.approx(sum(values) / len(values), rel=1e-3) if values else None)
    assert sum(bucket.share for bucket in scores.kl_buckets) == pytest.approx(1)
    assert sum(b.share * (b.kl_mean or 0) for b in scores.kl_buckets) == pytest.approx(scores.kl_mean)
    assert evaluate(base, None, text).kl_buckets == ()


def test_a_model_on_its_own_has_no_buckets(tiny_llama: Path) -> None:
    base: LoadedModel = load_model(str(tiny_llama))
    assert evaluate(base, base, torch.randint(1, 300, (2, 8))).kl_buckets == ()
