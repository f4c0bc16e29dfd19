"""A run's folder, which one command at a time works in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from stvg_nst.machine.folder_lock import locked


@contextmanager
def alone_in_run(folder: Path) -> Iterator[None]:
    """Holds the folder of a run for this command; of several processes the first one holds it for all.

    Raises:
        BlockingIOError: another command works in it.
    """
    with ExitStack() as held:
        if _is_first_process():
            try:
                held.enter_context(locked(folder))
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"'{folder}' is in use by another command; wait until it ends, or choose another folder"
                ) from error
        yield


def _is_first_process() -> bool:
    """Known ahead of the trainer, from what Lightning, torchrun and SLURM tell their processes.

    The first process of each further machine has no rank yet where Lightning starts the others.
    """
    machine = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return rank_zero_only.rank == 0 and int(machine) == 0  # type: ignore[attr-defined]
