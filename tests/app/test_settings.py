"""Settings are read from the environment; an error names the variable and its value."""

from pathlib import Path

import pytest

from app.settings import Settings, SettingsError


def test_defaults_are_the_users_data_folder_and_all_cores() -> None:
    settings = Settings.from_environment({})
    assert settings.data_dir.name == "abq-explorer"
    assert settings.database_url == f"sqlite:///{settings.data_dir / 'abq.sqlite3'}"
    assert settings.threads >= 1 and settings.device == "cpu"


def test_a_child_process_sees_the_same_settings(tmp_path: Path) -> None:
    settings = Settings.from_environment({"ABQ_DATA_DIR": str(tmp_path), "ABQ_THREADS": "1", "ABQ_DEVICE": "cuda:0"})
    assert Settings.from_environment(settings.to_environment()) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ABQ_THREADS", "none"),
        ("ABQ_THREADS", "0"),
        ("ABQ_THREADS", "-1"),
        ("ABQ_DEVICE", "tpu"),
        ("ABQ_NICENESS", "20"),
        ("ABQ_NICENESS", "-1"),
        ("ABQ_DATABASE_URL", "abq.sqlite3"),
        ("ABQ_DATA_DIR", __file__),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.from_environment({name: value})
    assert value in str(caught.value)


def test_a_data_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="ABQ_DATA_DIR"):
        Settings.from_environment({"ABQ_DATA_DIR": str(tmp_path / "file" / "data")}).prepare()
