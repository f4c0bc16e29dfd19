"""The checkpoints that CG-STVG's authors have put on the Hugging Face hub."""

from __future__ import annotations

import errno
from pathlib import Path

from huggingface_hub import hf_hub_download

REPOSITORY = "Gstar666/CGSTVG"
RELEASES = ("hcstvg", "hcstvg2", "vidstg")


def fetch_release(name: str) -> Path:
    """The released checkpoint of a name, in the hub's cache; it is fetched, 3.4 GB, if it is not there yet.

    Raises:
        OSError: it is neither in the cache nor to be had.
    """
    try:
        return Path(hf_hub_download(REPOSITORY, f"{name}.pth"))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise  # the hub is not to blame for the cache's own disk
        raise OSError(
            f"no '{name}.pth' of {REPOSITORY} in the cache of the Hugging Face hub, and the hub did not hand it out; "
            f"run once with a network, or give the path of a copy ({error})"
        ) from error
