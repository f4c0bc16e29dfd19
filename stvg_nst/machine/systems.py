"""The operating systems that the suite runs on."""

from __future__ import annotations

import sys


def refuse_other_systems(platform: str = sys.platform) -> None:
    """Refuses Windows, which has neither the locks nor the signals that keep runs apart and whole.

    Raises:
        OSError: this is Windows.
    """
    if platform in ("win32", "cygwin"):
        raise OSError("stvg_nst runs on Linux and macOS, and this is Windows; install it in WSL 2, where it is Linux")
