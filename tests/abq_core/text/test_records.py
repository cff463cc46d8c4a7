"""Records of texts: the JSON round trip, and records that cannot be read."""

import json

import pytest

from abq_core.text.errors import DataError
from abq_core.text.records import TextRecord

RECORD = TextRecord("c4@" + "a" * 40, "a" * 40, "calibration", 3, 12, 4096, 32, (5, 0, 9), "f" * 64)


def test_a_record_survives_json() -> None:
    assert TextRecord.from_dict(json.loads(json.dumps(RECORD.to_dict()))) == RECORD


@pytest.mark.parametrize(
    "data", [{"source": "builtin"}, {**RECORD.to_dict(), "windows": None}, {**RECORD.to_dict(), "more": 1}, {}]
)
def test_a_record_of_another_version_is_named(data: dict[str, object]) -> None:
    with pytest.raises(DataError, match="another version"):
        TextRecord.from_dict(data)
