"""What keeps the findings of a run has in common: it goes first, and replaces nothing unasked."""

from __future__ import annotations

import math
from typing import ClassVar

import lightning

from callbacks.run import run_folder


class Keeper(lightning.Callback):
    """Writes files into the run's folder that only a finished run has.

    Args:
        overwrite: replace the files of an earlier run.
    """

    STAGE: ClassVar[str]
    """Of the trainer, that the files are written in."""

    FILES: ClassVar[tuple[str, ...]]
    """Names in the run's folder."""

    TURN: ClassVar[int]
    """Its place among the callbacks that go first."""

    def __init__(self, *, overwrite: bool = False) -> None:
        self.overwrite = overwrite

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Stops a run on every rank, before any work is done, if one of its files exists.

        Raises:
            FileExistsError: it does, and ``overwrite`` is false.
        """
        if stage != self.STAGE:
            return
        go_first(trainer)
        for path in () if self.overwrite else [run_folder(trainer) / name for name in self.FILES]:
            # Rank 0 looks for all: ranks that answered differently would wait for each other for ever.
            if trainer.strategy.broadcast(path.exists()):
                raise FileExistsError(
                    f"'{path}' is there from a finished run; choose another folder with --run, delete the file, or set "
                    f"overwrite of the callback {type(self).__name__} to true"
                )


def go_first(trainer: lightning.Trainer) -> None:
    """Puts the keepers, by their turns, ahead of all other callbacks.

    What another callback raises in the same hook comes after them then, in whatever order a configuration has them.
    """
    trainer.callbacks = sorted(  # type: ignore[attr-defined]
        trainer.callbacks,  # type: ignore[attr-defined]
        key=lambda callback: getattr(callback, "TURN", math.inf),
    )
