"""Offline mode of huggingface_hub and `datasets`, switched while the process runs."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def offline() -> Iterator[None]:
    """Make huggingface_hub and `datasets` behave as with HF_HUB_OFFLINE=1.

    They use the cache and send no request.

    Both read the variable only when they are imported, so their constants are set instead. Checked with huggingface_hub
    1 and datasets 5.2; tests/abq_core/evaluation/test_offline.py fails if the constants no longer have an effect.
    """
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
