"""Secrets of the environment: none reaches a worker or a log."""

import pytest

from app.secrets import HIDDEN, redacted, without_secrets
from app.services import Services


def test_secrets_are_removed_from_worker_environments_and_logs() -> None:
    environment = {
        "HF_TOKEN": "hf_" + "a" * 30, "MY_API_KEY": "key-12345678", "DB_PASSWORD": "short", "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "false", "ABQ_DATA_DIR": "/data", "AWS_SECRET_ACCESS_KEY": "x" * 20,
    }  # fmt: skip
    public = without_secrets(environment)
    assert set(public) == {
        "PATH", "TOKENIZERS_PARALLELISM", "ABQ_DATA_DIR", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_TOKEN_PATH",
    }  # fmt: skip
    text = f"401 for {environment['HF_TOKEN']} and hf_{'b' * 30}, key-12345678; a short word stays"
    assert redacted(text, environment) == f"401 for {HIDDEN} and {HIDDEN}, {HIDDEN}; a short word stays"


def test_workers_start_without_tokens(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.jobs.executors import local

    seen: dict[str, str] = {}

    class Started:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str], **options: object) -> None:
            seen.update(env)

    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 30)
    monkeypatch.setattr(local.subprocess, "Popen", Started)
    local.Supervisor(services.settings, services.storage.jobs)._start_worker()
    assert "HF_TOKEN" not in seen and seen["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    assert seen["ABQ_DATA_DIR"] == str(services.settings.data_dir)
