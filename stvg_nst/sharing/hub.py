"""What talks to the hub. The client keeps what it has fetched, and asks nobody where ``HF_HUB_OFFLINE`` is set."""

from __future__ import annotations

import re
from pathlib import Path

from stvg_nst.results.run_folder import RunFile

PREFIX = "hub:"
CONFIG, CARD = "config.json", "README.md"
FILES = (CONFIG, CARD, RunFile.ADAPTER, RunFile.CERTIFICATE)
"""What a shared folder may hold."""
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_reference(source: str | Path) -> bool:
    """Whether a source is ``hub:user/name``, or ``hub:user/name@revision``."""
    return str(source).startswith(PREFIX)


def fetch(reference: str | Path) -> Path:
    """The folder of a shared adapter, in the hub's cache.

    Raises:
        ValueError: the reference is not as said above.
        OSError: it is neither in the cache nor to be had.
    """
    from huggingface_hub import snapshot_download  # here, because most runs share nothing
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = str(reference).removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected {PREFIX}user/name or {PREFIX}user/name@revision, got '{reference}'")
    repository, _, revision = name.partition("@")
    check_name(repository)
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*FILES]))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        first = str(error).strip().partition("\n")[0]
        raise OSError(
            f"'{reference}' is not in the cache of the Hugging Face hub, and the hub did not hand it out; look at the "
            f"name, and run once with a network ({first})"
        ) from error


def check_name(name: str) -> None:
    """Refuses what the hub does not take for ``user/name``, without asking it.

    Raises:
        ValueError: so.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"'{name}' is no user/name of the Hugging Face hub: {error}") from error
    if "/" not in name:
        raise ValueError(f"expected user/name, as an adapter is to be called on the Hugging Face hub, got '{name}'")


def adapter_file(source: str | Path) -> Path:
    """The adapter's file of what a user names: the file itself, a folder that holds one, or a reference to the hub.

    Raises:
        ValueError, OSError: as :func:`fetch`.
    """
    path = fetch(source) if is_reference(source) else Path(source)
    return path / RunFile.ADAPTER if path.is_dir() else path


def send(folder: Path, name: str, *, private: bool) -> str:
    """Sends a folder to the hub, which knows the sender by ``hf auth login``, and returns the address of its page.

    A certificate that is there of an earlier adapter goes, where the folder has none.

    Raises:
        OSError: the hub refuses it.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    sent = api.upload_folder(
        repo_id=name, folder_path=folder, commit_message="Share an adapter", delete_patterns=[RunFile.CERTIFICATE]
    )
    return str(sent.commit_url)
