"""What the writers of a test's findings have in common: they check first, write early, and replace nothing unasked."""

from __future__ import annotations

from typing import ClassVar

import lightning

from callbacks.run import go_first, refuse_finished, require_room, run_folder


class RecordWriter(lightning.Callback):
    """Writes files into the run's folder when the last batch of a test is scored, ahead of all other callbacks.

    It writes in ``on_test_epoch_end``: the hooks in which the module logs, pictures are drawn and dashboards are
    closed come later, and may fail.

    Args:
        overwrite: replace the files of an earlier test.
    """

    FILES: ClassVar[tuple[str, ...]]
    """That it writes."""

    TURN: ClassVar[int]
    """Its place among the callbacks that go first."""

    BYTES_PER_SAMPLE: ClassVar[int]
    """About what a sample takes in the files, rather too much than too little."""

    def __init__(self, *, overwrite: bool = False) -> None:
        self.overwrite = overwrite

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Refuse, before any work is done, to test into a folder that has the files.

        Raises:
            FileExistsError: the folder holds one of them, and ``overwrite`` is false.
        """
        if stage != "test":
            return
        go_first(trainer)
        if not self.overwrite:
            for name in self.FILES:
                refuse_finished(trainer, run_folder(trainer) / name, callback=type(self).__name__)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Refuse to test where there is no room for the files.

        Raises:
            OSError: there is none.
        """
        require_room(trainer, self.BYTES_PER_SAMPLE * num_own_samples(trainer) * trainer.world_size)


def num_own_samples(trainer: lightning.Trainer) -> int:
    """Of a test, those that this process is dealt."""
    assert trainer.test_dataloaders is not None
    return len(trainer.test_dataloaders.sampler)
