"""Numbers of attention heads against loops in NumPy."""

import numpy as np
import pandas as pd
import pytest

from abq_core.analysis.attention_heads import attention_heads, compared_lens

SIZE = 9


def softmaxes(seed: int) -> np.ndarray:
    """(SIZE, SIZE) causal attention with a preferred first key."""
    scores = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    scores[:, 2] += 2
    weights = np.exp(scores) * np.tri(SIZE)
    return weights / weights.sum(1, keepdims=True)


@pytest.fixture
def maps() -> dict[tuple[int, int], dict[str, np.ndarray]]:
    lenses = ("full", "rounded", "corrected")
    places = [(block, head) for block in (0, 3) for head in (0, 1)]
    return {
        place: {lens: softmaxes(10 * index + at) for at, lens in enumerate(lenses)}
        for index, place in enumerate(places)
    }


def as_frame(maps: dict[tuple[int, int], dict[str, np.ndarray]]) -> pd.DataFrame:
    query, key = np.nonzero(np.tri(SIZE))
    frames = []
    for (block, head), one in maps.items():
        values = {lens: weights[query, key] for lens, weights in one.items()}
        frames.append(pd.DataFrame({"block": block, "head": head, "query": query, "key": key, **values}))
    return pd.concat(frames, ignore_index=True).sample(frac=1, random_state=0)


def test_kl_entropy_and_sink_are_means_over_the_queries(maps: dict[tuple[int, int], dict[str, np.ndarray]]) -> None:
    heads = attention_heads(as_frame(maps)).set_index(["block", "head"])
    assert list(heads.index) == [(0, 0), (0, 1), (3, 0), (3, 1)]
    for place, one in maps.items():
        row, full = heads.loc[place], one["full"]
        for lens, other in one.items():
            entropies, divergences = [], []
            for query in range(SIZE):
                p, q = full[query, : query + 1], other[query, : query + 1]
                entropies.append(-sum(q * np.log(q)))
                divergences.append(sum(p * np.log(p / q)))
            assert row[f"entropy_{lens}"] == pytest.approx(np.mean(entropies))
            if lens != "full":
                assert row[f"kl_{lens}"] == pytest.approx(np.mean(divergences))
            assert row[f"sink_{lens}"] == pytest.approx(other[3:, 2].mean())
        assert row["sink"] == 2


def test_zeros_and_a_single_token_have_finite_numbers() -> None:
    rows = [(0, 0, 0, 1.0, 1.0, 1.0), (0, 1, 0, 0.0, 1.0, 1.0), (0, 1, 1, 1.0, 0.0, 1.0)]
    frame = pd.DataFrame(rows, columns=["head", "query", "key", "full", "rounded", "corrected"]).assign(block=0)
    row = attention_heads(frame).iloc[0]
    assert row["entropy_full"] == 0 and 0 < row["kl_rounded"] < np.inf and row["kl_corrected"] == 0
    single = attention_heads(frame[frame["query"].eq(0)]).iloc[0]
    assert single["entropy_full"] == 0 and np.isnan(single["sink_full"])
    assert list(attention_heads(frame.iloc[:0]).columns) == list(row.index)


def test_an_import_is_compared_by_its_own_lens(maps: dict[tuple[int, int], dict[str, np.ndarray]]) -> None:
    frame = as_frame(maps)
    imported = frame.drop(columns="rounded").rename(columns={"corrected": "imported"})
    found, expected = attention_heads(imported), attention_heads(frame)
    assert list(found["kl_imported"]) == list(expected["kl_corrected"]) and "kl_rounded" not in found
    assert compared_lens(imported, "corrected") == "imported" and compared_lens(frame, "rounded") == "rounded"
