"""Push an export to the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi

from abq_core.export.errors import ExportError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def check_repository(name: str) -> str:
    """The name of a repository, ORG/NAME. Raises ExportError for other text."""
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise ExportError(
            f"{name[:100]!r} is not the name of a repository: use ORG/NAME, such as my-name/smollm2-w4a8."
        )
    return name


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a repository of the hub, which is created as a private one. Returns its address.

    The token is that of `hf auth login`, or HF_TOKEN. Raises ExportError.
    """
    api = HfApi()
    check_repository(repository)
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Export of ABQ Explorer")
    except Exception as error:  # of the hub's client and of the HTTP library below it
        said = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{folder} is written, but it was not pushed to {repository}: {said}. Log in with `hf auth login`, or "
            f"push it with: hf upload {repository} {folder}"
        ) from error
    return str(address)
