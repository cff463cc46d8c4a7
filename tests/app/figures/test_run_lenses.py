"""What `rtn` made is called rounded, and never corrected."""

import pandas as pd
import pytest

from app.figures.run_lenses import lens_of, under_its_lens


@pytest.mark.parametrize(
    ("method", "lens"), [("none", "full"), ("rtn", "rounded"), ("abq", "corrected"), ("imported", "imported")]
)
def test_each_method_has_a_lens(method: str, lens: str) -> None:
    assert lens_of(method) == lens


def test_the_result_of_rtn_replaces_rounding_alone() -> None:
    rows = pd.DataFrame({"lens": ["full", "rounded", "corrected"], "value": [1, 2, 3]})
    shown = under_its_lens(rows, "rtn")
    assert dict(zip(shown["lens"], shown["value"], strict=True)) == {"full": 1, "rounded": 3}
    assert under_its_lens(rows, "abq") is rows
    maps = pd.DataFrame({"head": [0], "full": [0.5], "rounded": [0.4], "corrected": [0.3]})
    assert under_its_lens(maps, "rtn").to_dict("list") == {"head": [0], "full": [0.5], "rounded": [0.3]}
    for frame in (rows.query("lens == 'rounded'"), pd.DataFrame({"position": [0]}), pd.DataFrame()):
        assert under_its_lens(frame, "rtn") is frame
