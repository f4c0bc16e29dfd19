"""What a run says in lines that stay: what it tunes, how each epoch went, and where its results are."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning
import torch
from torch import Tensor

from callbacks.run import describe_epoch, grounding_data, grounding_module, leaves_files, run_folder
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.results.metric_names import MAIN, MetricName
from stvg_nst.results.run_folder import RunFile
from stvg_nst.training.loop_position import is_finished

_log = logging.getLogger(__name__)


class RunLog(lightning.Callback):
    """Says what a fit tunes and how each validation and test came out, in as few lines as that takes.

    A fit leaves ``layers.txt`` in the run's folder: every tuned layer, which the console folds by patterns.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._start = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._start = time.perf_counter()

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        report = grounding_module(pl_module).injection
        _say(trainer, report.folded())
        if leaves_files(trainer):
            path = run_folder(trainer) / RunFile.LAYERS
            write_whole(path, f"{report}\n")
            if report.layers:
                _say(trainer, f"  every layer by itself: {path}")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.global_step:
            _say(trainer, f"goes on after step {trainer.global_step:,}")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        # Lightning hands over the share that the loss has in its optimiser step.
        self._losses.append(loss.detach() * trainer.accumulate_grad_batches)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """After the validation of the epoch, which Lightning has in between."""
        words = [describe_epoch(trainer)]
        if self._losses:
            words.append(f"loss {torch.stack(self._losses).mean().item():.3f}")
        self._losses.clear()
        if scores := _scores(trainer, "val"):
            words += [f"val {scores[0]}", *scores[1:]]
        _say(trainer, f"{', '.join(words)}, {self._elapsed()}")

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if is_finished(trainer):
            _say(trainer, f"tuned in {self._elapsed()}, in {run_folder(trainer)}")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._say_scores(trainer, "validate", "val")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._say_scores(trainer, "test", "test")

    def _say_scores(self, trainer: lightning.Trainer, stage: str, prefix: str) -> None:
        measured = grounding_data(trainer).conditions(stage)
        _say(trainer, f"{measured}: {', '.join(_scores(trainer, prefix))}, {self._elapsed()}")

    def _elapsed(self) -> str:
        minutes, seconds = divmod(round(time.perf_counter() - self._start), 60)
        return f"{minutes}:{seconds:02d}"


def _scores(trainer: lightning.Trainer, stage: str) -> list[str]:
    """The main metric of each quality, and the WAS where there is a baseline; nothing where nothing was measured."""
    found = trainer.callback_metrics
    values = {view: found.get(f"{stage}/{MetricName(view, MAIN)}") for view in ("HQ", "LQ", "WAS")}
    words = [f"{view} {value.item():.2f}" for view, value in values.items() if value is not None]
    return [f"{MAIN} {words[0]}", *words[1:]] if words else []


def _say(trainer: lightning.Trainer, words: str) -> None:
    if trainer.is_global_zero:
        _log.info(words)
