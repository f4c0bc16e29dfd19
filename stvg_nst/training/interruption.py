"""Signals and time limits: they end a fit where it can go on from, and any other command at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from stvg_nst.counting import counted
from stvg_nst.training.loop_position import is_finished, restart_validation
from stvg_nst.training.stopping import FOREWARNED, INTERRUPTED, TERMINATED, UNFINISHED, StoppedError

_Handler = Callable[[int, FrameType | None], None]
# What ends a fit behind the step that is at work: in words, and by which status.
_ENDINGS = {signal.SIGTERM: ("terminated", TERMINATED), signal.SIGUSR1: ("told that its time is over", FOREWARNED)}
GO_ON = "the same command with --ckpt_path last goes on from"
_EARLY = "stopped before its end, by --trainer.max_time or by a callback,"


@contextmanager
def stopped_by_signals(go_on: str = GO_ON) -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and SIGUSR1 end what is within by a :class:`StoppedError`.

    What is ignored stays ignored, as Ctrl-C is in a command that a script starts in the background.

    Args:
        go_on: what goes on from a checkpoint, in words.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDINGS)}
    replaced = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in replaced:
        signal.signal(number, partial(_leave, go_on))
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, before[number])


def _leave(go_on: str, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise StoppedError(f"interrupted; {go_on} the last checkpoint", INTERRUPTED)
    raise StoppedError(*_ENDINGS[signal.Signals(number)])


class Interruption(Checkpoint):
    """Ends a fit early so that it loses nothing: by a signal, by ``--trainer.max_time``, or as another callback asks.

    It writes a checkpoint behind the step, or within the validation, that is at work, where several processes end the
    validation first. A fit that was asked for more steps never counts as finished. It must be the last callback.

    The signals are SIGTERM and SIGUSR1. Lightning's own handlers of both talk to the other processes from within the
    signal, and hang there.

    Args:
        go_on: what goes on from a checkpoint, in words.
    """

    def __init__(self, go_on: str = GO_ON) -> None:
        self._go_on = go_on
        self._told: signal.Signals | None = None
        self._within_validation = False

    # --- signals ----------------------------------------------------------------------------------------------------

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_evaluation_start(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number in _ENDINGS:
            self._handle(trainer, number, self._note)
        self._handle(trainer, signal.SIGINT, self._leaver(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._on_evaluation_start(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._on_evaluation_start(trainer)

    def _on_evaluation_start(self, trainer: Trainer) -> None:
        for number in (*_ENDINGS, signal.SIGINT):
            self._handle(trainer, number, self._leaver(trainer))

    def _handle(self, trainer: Trainer, number: signal.Signals, handler: _Handler) -> None:
        """Replaces Lightning's handlers, which it puts back as they were when the trainer ends."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = signal.Signals(number)

    def _leaver(self, trainer: Trainer) -> _Handler:
        def leave(number: int, frame: FrameType | None) -> None:
            launcher = trainer.strategy.launcher
            if isinstance(launcher, _SubprocessScriptLauncher):
                launcher.kill(signal.SIGKILL)  # the processes that wait for this one; they write nothing
            _leave(self._go_on, number, frame)

        return leave

    # --- where a fit can be left ------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        accumulates = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if not trainer.is_last_batch and not accumulates:
            self._stop_if_asked(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Several processes need not have the same number of batches here, so that they cannot agree.
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.world_size == 1 and self._told:
            self._within_validation = True
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_asked(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops a fit whose time was over before its first step, too."""
        if not is_finished(trainer):
            text = f"{_EARLY} after {counted(trainer.global_step, 'step')}; {self._go_on} the last checkpoint"
            raise StoppedError(text, UNFINISHED)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if is_finished(trainer) or not _in_any_process(trainer, self._told is not None or trainer.should_stop):
            return
        told = [ending for number, ending in _ENDINGS.items() if _in_any_process(trainer, self._told == number)]
        path = None if trainer.fast_dev_run else _place_of_last(trainer)  # type: ignore[attr-defined]
        if path is not None:
            trainer.save_checkpoint(path, weights_only=False)
        why, status = told[0] if told else (_EARLY, UNFINISHED)
        on = f"{self._go_on} '{path}'" if path else "no checkpoint was written, for none is configured"
        raise StoppedError(f"{why} after {counted(trainer.global_step, 'step')}; {on}", status)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._within_validation:
            restart_validation(checkpoint["loops"]["fit_loop"])


def _in_any_process(trainer: Trainer, decision: bool) -> bool:
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))


def _place_of_last(trainer: Trainer) -> Path | None:
    """The file that the run's ModelCheckpoint would write as its last one, and takes for its own from now on."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            assert callback.dirpath is not None
            name = f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
            callback.last_model_path = callback.last_model_path or str(Path(callback.dirpath) / name)
            return Path(callback.last_model_path)
    return None
