"""How far a fit is, by Lightning's counters: read, and rewritten where a resume needs it."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

_COUNTS = ("ready", "started", "processed", "completed")


def is_finished(trainer: Trainer) -> bool:
    """Whether a fit has had all the steps that it was asked for, or an early stopping has found it done."""
    loop = trainer.fit_loop
    epochs, steps = loop.max_epochs, loop.max_steps
    past: Any = loop.epoch_progress.current
    if trainer.limit_train_batches == 0 or loop.max_batches == 0:
        return True
    if steps != -1 and trainer.global_step >= steps:
        return True
    if epochs not in (None, -1) and past.processed >= epochs:
        return True
    stopping = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]  # type: ignore[attr-defined]
    return trainer.should_stop and any(
        callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED for callback in stopping
    )


def recount_batches(fit_loop: dict[str, Any], before: int, now: int) -> None:
    """Rewrites the state of a fit loop for batches of another size, so that it goes on behind the same clips.

    Args:
        fit_loop: of a checkpoint.
        before, now: clips of a batch, in all processes together.
    """
    if before == now:
        return
    batches, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    if batches["is_last_batch"]:
        # How many batches of the new size an epoch has is not known here: this one counts as past.
        done = 0
        for counts in (epochs["total"], epochs["current"]):
            counts.update(processed=counts["started"], completed=counts["started"])
        batches["is_last_batch"] = False
    else:
        done = batches["current"]["processed"] * before // now
    batches["current"].update(dict.fromkeys(_COUNTS, done))
    batches["total"]["completed"] = batches["total"]["processed"]


def restart_validation(fit_loop: dict[str, Any]) -> None:
    """Rewrites the state of a fit loop that was saved within a validation, so that the whole validation runs again."""
    batches = fit_loop["epoch_loop.val_loop.batch_progress"]
    batches["total"].update(ready=1, started=1, processed=0, completed=0)
    batches["current"].update(dict.fromkeys(_COUNTS, 0))
    batches["is_last_batch"] = False
