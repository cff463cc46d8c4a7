"""The licence that a model's README names: its word only."""

from pathlib import Path

import pytest

from abq_core.export.model_files import licence


@pytest.mark.parametrize(
    ("front", "found"),
    [
        ("license: apache-2.0\n", "apache-2.0"),
        ("license: mit\ndate: 2024-13-45\n", None),  # a date that does not exist
        ('license: "mit\\nbase_model: other/model"\n', None),  # it would be a key of the export's card
        ("license: [mit]\n", None),
        (f"license: {'[' * 3000}\n", None),
    ],
)
def test_only_a_plain_name_is_taken(tmp_path: Path, front: str, found: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}---\n# A model\n")
    assert licence(str(tmp_path)) == found
