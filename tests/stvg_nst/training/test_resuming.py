from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml

from stvg_nst.training.resuming import ChangedSettingsError, Policy, Resumption
from tests.counting import Counting, Numbers, make_trainer

LAST = Path("checkpoints/last.ckpt")


def config(*, lr: float = 0.1, batch_size: int = 2, max_epochs: int = 3) -> dict[str, Any]:
    return {
        "trainer": {"max_epochs": max_epochs, "accumulate_grad_batches": 1, "callbacks": None},
        "data": {"class_path": "Numbers", "init_args": {"batch_size": batch_size}},
        "model": {"weights": "random", "optimizer": {"init_args": {"lr": lr}}},
    }


class Leave(lightning.Callback):
    """Ends the fit by a failure as the second epoch begins."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("left")


def fit(
    folder: Path,
    settings: dict[str, Any],
    module: Counting,
    *others: lightning.Callback,
    checkpoint: Path | None = None,
    policy: Policy = "refuse",
) -> lightning.Trainer:
    trainer = make_trainer(folder, *others, max_epochs=settings["trainer"]["max_epochs"])
    trainer.callbacks.insert(0, Resumption(settings, checkpoint, policy))
    data = Numbers(settings["data"]["init_args"]["batch_size"])
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return trainer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a fit that was left after its first epoch."""
    with pytest.raises(RuntimeError, match="left"):
        fit(tmp_path, config(), Counting(), Leave())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config()))
    return tmp_path


def test_other_settings_are_refused_before_a_step_with_all_that_differs(run: Path) -> None:
    module, before = Counting(lr=0.2), (run / LAST).read_bytes()
    said = (
        f"'{run / LAST}' was trained by other settings: data.init_args.batch_size x processes x "
        "trainer.accumulate_grad_batches: 2 before, 3 now; model.optimizer.init_args.lr: 0.1 before, 0.2 now; give the "
        "former ones again, or go on by the new ones with --changed_settings continue, or begin anew in another --run"
    )
    with pytest.raises(ChangedSettingsError, match=f"^{re.escape(said)}$"):
        fit(run, config(lr=0.2, batch_size=3), module, checkpoint=run / LAST)
    assert module.seen == [] and (run / LAST).read_bytes() == before


def test_a_checkpoint_of_another_run_says_its_settings_itself(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ChangedSettingsError, match=r"lr: 0\.1 before, 0\.3 now"):
        fit(tmp_path / "another", config(lr=0.3), Counting(), checkpoint=run / LAST)
    assert not (tmp_path / "another" / "config-until-step-3.yaml").exists()


def test_new_settings_reach_the_optimiser_the_schedule_and_the_loop(run: Path) -> None:
    used: list[tuple[int, float, float, float]] = []
    new = {"lr": 0.5, "weight_decay": 0.25, "betas": (0.8, 0.9)}

    def note(stage: str, epoch: int, number: int) -> None:
        if stage == "train":
            group = module.trainer.optimizers[0].param_groups[0]
            assert group["betas"] == (0.8, 0.9) and group["initial_lr"] == 0.5
            used.append((module.trainer.global_step, epoch, group["lr"], group["weight_decay"]))

    module = Counting(note, **new)
    fit(run, config(lr=0.5, batch_size=3, max_epochs=4), module, checkpoint=run / LAST, policy="continue")
    steps = [(3 + step, 1 + step // 2, pytest.approx(0.5 / (4 + step)), 0.25) for step in range(6)]
    assert used == steps, "three epochs of two batches each, at the rates of the new schedule"
    checkpoint = torch.load(run / LAST)
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == [0.5]
    (changed,) = checkpoint["settings"]["changed"]
    assert changed["after_step"] == 3 and len(changed["settings"]) == 3
    assert yaml.safe_load((run / "config-until-step-3.yaml").read_text()) == config()


def test_after_a_change_the_new_settings_are_those_to_compare(run: Path) -> None:
    with pytest.raises(RuntimeError, match="left"):
        fit(run, config(lr=0.5), Counting(leave_late, lr=0.5), checkpoint=run / LAST, policy="continue")
    (run / "config.yaml").write_text("new")
    last = max((run / "checkpoints").glob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    fit(run, config(lr=0.5), Counting(lr=0.5), checkpoint=last)
    with pytest.raises(ChangedSettingsError, match=r"lr: 0\.5 before, 0\.1 now"):
        fit(run, config(), Counting(), checkpoint=last)


def leave_late(stage: str, epoch: int, number: int) -> None:
    if (stage, epoch) == ("train", 2):
        raise RuntimeError("left")


@pytest.mark.parametrize(
    ("module", "settings", "said"),
    [
        (lambda: Counting(momentum=0.9, kind=torch.optim.SGD), config(lr=0.5), "cannot go on by another optimiser"),
        (lambda: Counting(lr=0.5), config(lr=0.5, max_epochs=0), r"has had 1 epoch, but --trainer\.max_epochs is 0"),
    ],
)
def test_what_no_word_can_change_is_refused_before_anything_is_kept(
    run: Path, module: Any, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ChangedSettingsError, match=said):
        fit(run, settings, module(), checkpoint=run / LAST, policy="continue")
    assert not list(run.glob("config-until*"))


def test_a_checkpoint_that_does_not_say_is_refused_until_one_says_so(run: Path) -> None:
    checkpoint = torch.load(run / LAST)
    del checkpoint["settings"]
    torch.save(checkpoint, run / LAST)
    with pytest.raises(ChangedSettingsError, match="does not say what it was trained by: an older version wrote it"):
        fit(run, config(), Counting(), checkpoint=run / LAST)
    assert fit(run, config(), Counting(), checkpoint=run / LAST, policy="continue").current_epoch == 3


def test_a_finished_fit_leaves_nothing_for_slurms_next_job(run: Path) -> None:
    (run / "hpc_ckpt_1.ckpt").touch()
    fit(run, config(), Counting(), checkpoint=run / LAST)
    assert not list(run.glob("hpc_ckpt*"))
