"""Offline mode has an effect while it is on, and ends."""

from pathlib import Path

import datasets.config
import pytest
from datasets import load_dataset
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from abq_core.evaluation.offline import offline


def test_no_request_is_sent_while_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ZeroDivisionError), offline():
        assert constants.is_offline_mode()
        with pytest.raises(OfflineModeIsEnabled):
            HfApi().dataset_info("org/name")
        with pytest.raises(ConnectionError):
            load_dataset("org/name", cache_dir=str(tmp_path))
        raise ZeroDivisionError
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE
