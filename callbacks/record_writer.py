"""What the writers of a test's findings have in common: they check for room, and write early."""

from __future__ import annotations

from typing import ClassVar

import lightning

from callbacks.keeper import Keeper
from callbacks.run import require_room


class RecordWriter(Keeper):
    """Writes files into the run's folder when the last batch of a test is scored, ahead of all other callbacks.

    It writes in ``on_test_epoch_end``: the hooks in which the module logs, pictures are drawn and dashboards are
    closed come later, and may fail.

    Args:
        overwrite: replace the files of an earlier test.
    """

    STAGE = "test"

    BYTES_PER_SAMPLE: ClassVar[int]
    """About what a sample takes in the files, rounded up."""

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Refuse to test where there is no room for the files.

        Raises:
            OSError: there is none.
        """
        require_room(trainer, self.BYTES_PER_SAMPLE * num_own_samples(trainer) * trainer.world_size)


def num_own_samples(trainer: lightning.Trainer) -> int:
    """How many samples of the test this process gets."""
    assert trainer.test_dataloaders is not None
    return len(trainer.test_dataloaders.sampler)
