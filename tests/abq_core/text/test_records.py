"""Records of texts: the JSON round trip, and records that cannot be read."""

import dataclasses
import json

import pytest

from abq_core.text.errors import DataError
from abq_core.text.records import TextRecord

RECORD = TextRecord("c4@" + "a" * 40, "a" * 40, "calibration", 3, 12, 4096, 32, (5, 0, 9), "f" * 64, (2,))


def test_a_record_survives_json() -> None:
    assert TextRecord.from_dict(json.loads(json.dumps(RECORD.to_dict()))) == RECORD


@pytest.mark.parametrize(
    "data", [{"source": "builtin"}, {**RECORD.to_dict(), "windows": None}, {**RECORD.to_dict(), "more": 1}, {}]
)
def test_a_record_of_another_version_is_named(data: dict[str, object]) -> None:
    with pytest.raises(DataError, match="another version"):
        TextRecord.from_dict(data)


def test_a_record_of_an_earlier_version_had_nothing_in_front_of_its_windows() -> None:
    data = {name: value for name, value in RECORD.to_dict().items() if name != "prefix"}
    old = TextRecord.from_dict(data)
    assert (old.prefix, old.prefix_tokens, old.unscored) == (None, 0, 0)
    assert old == RECORD, "the sha256 decides"
    assert (RECORD.prefix_tokens, RECORD.unscored) == (1, 0)
    assert dataclasses.replace(RECORD, prefix=(2, 3)).unscored == 1
