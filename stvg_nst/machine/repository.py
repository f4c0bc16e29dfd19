"""What git says of files: the commit that they belong to, and whether it holds them as they are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path


def git_state(file: Path) -> tuple[str | None, bool | None]:
    """The commit that a source file belongs to, and whether tracked files of its repository differ from it.

    Returns:
        ``(None, None)`` for a file that no repository tracks, such as one in a virtual environment inside of one.
    """
    try:
        _git(file, "ls-files", "--error-unmatch", file.name)
        commit = _git(file, "rev-parse", "HEAD").strip()
        return commit, bool(_git(file, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):  # no git that runs on this machine, no repository, or no commit
        return None, None


def uncommitted(files: Iterable[Path]) -> tuple[Path, ...]:
    """Those of the files that the last commit of their repository does not hold as they are."""
    return tuple(file for file in files if not _is_committed(file))


def _is_committed(file: Path) -> bool:
    try:
        _git(file, "ls-files", "--error-unmatch", file.name)
        _git(file, "diff", "--quiet", "HEAD", "--", file.name)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout
