"""One progress bar, for whatever a run is doing."""

from __future__ import annotations

import math
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from callbacks.run import describe_epoch


class RunProgress(ProgressBar):
    """Draws one bar on a terminal: batches of the epoch, the validation or the test. In a pipe there is none.

    What is left to read behind it are the lines of :class:`callbacks.RunLog`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def _begin(self, what: str, num_batches: float) -> None:
        self._end()
        console = Console()
        if not self._enabled or not console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[loss]}"), console=console, transient=True)
        self._bar.add_task(what, total=num_batches if math.isfinite(num_batches) else None, loss="")
        self._bar.start()

    def _advance(self, **fields: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, **fields)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # --- what Lightning calls ---------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._train(trainer)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            loss = trainer.progress_bar_metrics.get("train/loss")
            self._advance(loss="" if loss is None else f"loss {loss:.3f}")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begin("validating", self.total_val_batches)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._advance()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._end()
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._train(trainer)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begin("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._advance()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._end()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def _train(self, trainer: lightning.Trainer) -> None:
        """The bar of the epoch, from where it stands."""
        self._begin(describe_epoch(trainer), trainer.num_training_batches)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=trainer.fit_loop.epoch_loop.batch_progress.current.ready)
