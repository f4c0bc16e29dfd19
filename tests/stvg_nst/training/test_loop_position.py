from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from stvg_nst.training.loop_position import is_finished, recount_batches, restart_validation
from tests.counting import Counting, Numbers, make_trainer


class Leave(lightning.Callback):
    """Writes a checkpoint in a hook of epoch 1, and ends the fit by a failure."""

    def __init__(self, path: Path, hook: str, number: int = 0) -> None:
        def leave(trainer: lightning.Trainer, module: lightning.LightningModule, *batch: Any) -> None:
            if trainer.current_epoch == 1 and (len(batch) < 3 or batch[2] == number):
                trainer.save_checkpoint(path)
                raise RuntimeError("left")

        setattr(self, hook, leave)


def resume(
    folder: Path, hook: str, number: int, rewrite: Callable[[dict[str, Any]], None], batch_size: int
) -> list[tuple[str, int, int, list[int]]]:
    path = folder / "left.ckpt"
    with pytest.raises(RuntimeError, match="left"):
        make_trainer(folder, Leave(path, hook, number)).fit(Counting(), datamodule=Numbers())
    checkpoint = torch.load(path)
    rewrite(checkpoint["loops"]["fit_loop"])
    torch.save(checkpoint, path)
    module = Counting()
    make_trainer(folder).fit(module, datamodule=Numbers(batch_size), ckpt_path=path)
    return module.seen


@pytest.mark.parametrize("number", [0, 1])
def test_a_validation_that_was_left_is_run_again_from_its_start(tmp_path: Path, number: int) -> None:
    seen = resume(tmp_path, "on_validation_batch_end", number, restart_validation, 2)
    assert seen[:3] == [("val", 1, 0, [0, 1]), ("val", 1, 1, [2, 3]), ("train", 2, 0, [0, 1])]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("hook", "number"), [("on_train_epoch_end", 0), ("on_train_batch_end", 2)])
def test_an_epoch_that_is_past_stays_past_whatever_the_batches(
    tmp_path: Path, hook: str, number: int, batch_size: int
) -> None:
    seen = resume(tmp_path, hook, number, lambda loop: recount_batches(loop, 2, batch_size), batch_size)
    assert [clip for stage, epoch, _, clips in seen for clip in clips if (stage, epoch) == ("train", 2)] == [*range(6)]
    assert {epoch for stage, epoch, *_ in seen if stage == "train"} == {2}


def test_within_an_epoch_as_many_clips_are_left_in_batches_of_another_size(tmp_path: Path) -> None:
    seen = resume(tmp_path, "on_train_batch_end", 0, lambda loop: recount_batches(loop, 2, 1), 1)
    assert [number for stage, epoch, number, _ in seen if (stage, epoch) == ("train", 1)] == [2, 3, 4, 5]


class Stop(lightning.Callback):
    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        trainer.should_stop = True


class Level(lightning.Callback):
    """Logs what never gets better."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        module.log("level", 1.0)


@pytest.mark.parametrize(
    ("options", "finished"),
    [
        ({"max_epochs": 2}, True),
        ({"max_epochs": 9, "max_steps": 4}, True),
        ({"max_epochs": 2, "limit_train_batches": 1}, True),
        ({"max_epochs": 2, "limit_train_batches": 0}, True),
        ({"max_epochs": 2, "max_time": {"seconds": 0}}, False),
    ],
)
def test_the_steps_that_were_asked_for_finish_a_fit(tmp_path: Path, options: dict[str, Any], finished: bool) -> None:
    trainer = make_trainer(tmp_path, **options)
    trainer.fit(Counting(), datamodule=Numbers())
    assert is_finished(trainer) == finished


def test_an_early_stopping_finishes_a_fit_and_another_callback_does_not(tmp_path: Path) -> None:
    configured = make_trainer(tmp_path, Level(), EarlyStopping("level", patience=1, check_on_train_epoch_end=True))
    configured.fit(Counting(), datamodule=Numbers())
    assert configured.global_step < 9 and is_finished(configured)
    stopped = make_trainer(tmp_path, Stop(), EarlyStopping("level", strict=False))
    stopped.fit(Counting(), datamodule=Numbers())
    assert not is_finished(stopped)
