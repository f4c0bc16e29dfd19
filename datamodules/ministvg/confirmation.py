"""The lock on the split ``confirm``: it is read for a list of configurations that is in a commit already."""

from __future__ import annotations

from pathlib import Path

from stvg_nst.machine.repository import uncommitted

_WHY = "the split 'confirm' is read once, by configurations that were fixed before it was (docs/confirmation.md)"


class UnconfirmedError(ValueError):
    """Somebody would read the split ``confirm`` without a committed list of the configurations that it is for."""


def require_committed(*files: Path | None) -> None:
    """Refuses to go on where the list, or a file that it is made of, is not there or not in the last commit.

    Raises:
        UnconfirmedError: so.
    """
    if None in files:
        raise UnconfirmedError(
            f"{_WHY}: name the study that lists them with --data.init_args.confirmation, or measure on 'val' or 'test'"
        )
    if lacking := uncommitted(file for file in files if file is not None):
        raise UnconfirmedError(
            f"{_WHY}, but '{lacking[0]}' is not in the last commit as it is; commit it, or take its changes back"
        )
